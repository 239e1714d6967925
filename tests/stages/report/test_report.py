"""The report of a real run: what it says against the files on disk, read with no code of the package."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from icons.settings import MARK
from tests.conftest import Project
from tests.page import Element, caption, findings, numbers, read_page, rows
from tests.reference.selection import read_rows, read_selection

FIGURES = {"sources", "answers", "lengths", "scores", "votes", "overlap", "carried", "gradients", "warmup"}


@pytest.fixture(scope="module")
def page(finished: Project) -> Element:
    return read_page(finished.run / "report" / "index.html")


@pytest.fixture(scope="module")
def own(finished: Project) -> np.ndarray:
    """Which rows lie in which task's own top 20%, [N, K]."""
    scores = load_file(finished.run / "influence" / "scores.safetensors")["scores"].astype(np.float64)
    return scores >= np.percentile(scores, 80, axis=0)


@pytest.fixture(scope="module")
def chosen(finished: Project) -> np.ndarray:
    found = np.zeros(100, bool)
    found[read_selection(finished.run)["indices"]] = True
    return found


def test_run_ends_with_the_page_and_says_where(finished: Project) -> None:
    again = finished.icons("run")
    page = finished.run / "report" / "index.html"
    assert again.out.splitlines()[-1] == f"report: {page}, already done"


def test_sources_are_those_of_the_data_file(finished: Project, page: Element, chosen: np.ndarray) -> None:
    records = json.loads((finished.root / "data" / "train.json").read_text())
    sources = [record["source"] for record in records]
    total = Counter(sources)
    picked = Counter(source for source, own in zip(sources, chosen, strict=True) if own)
    expected = [
        [name, str(total[name]), f"{total[name]}.0%", str(picked[name]), f"{picked[name] / 20:.1%}",
         f"{picked[name] / total[name]:.1%}"]
        for name in sorted(total, key=lambda name: (-total[name], name))
    ]  # fmt: skip
    assert numbers(page, "sources") == expected
    gain = {name: picked[name] / 20 - total[name] / 100 for name in total}
    most = max(gain.values())
    named = re.search(
        r"“(\w+)” gains most: ([\d.]+)% of the data, ([\d.]+)% of the selection", caption(page, "sources")
    )
    assert named is not None
    assert gain[named[1]] == pytest.approx(most)
    assert float(named[3]) - float(named[2]) == pytest.approx(100 * most)


def test_shapes_of_the_samples(finished: Project, page: Element, chosen: np.ndarray) -> None:
    records = json.loads((finished.root / "data" / "train.json").read_text())
    answers = Counter(min(len(record["conversations"]) // 2, 3) for record in records)
    found = {row[0]: row[1:] for row in numbers(page, "lengths")}
    assert [found[name][0] for name in ("1 answers", "2 answers", "3–4 answers")] == [
        str(answers[n]) for n in (1, 2, 3)
    ]
    tokens = read_rows(finished.run / "train_grads" / "final")["target_tokens"]
    assert found["3–4 tokens"][0] == str(int(((tokens > 2) & (tokens < 5)).sum()))
    assert found["3–4 tokens"][2] == str(int(((tokens > 2) & (tokens < 5) & chosen).sum()))
    text_only = sum("image" not in record for record in records)
    assert found["text only"][:2] == [str(text_only), f"{text_only}.0%"]


def test_votes_cut_and_tie_class(page: Element, own: np.ndarray, chosen: np.ndarray) -> None:
    votes = own.sum(axis=1)
    expected = [
        [str(n), str((votes == n).sum()), str((chosen & (votes == n)).sum()), str((~chosen & (votes == n)).sum())]
        for n in range(own.shape[1], -1, -1)
    ]
    assert numbers(page, "votes") == expected
    cut = votes[chosen].min()
    taken, tied = int((chosen & (votes == cut)).sum()), int((votes == cut).sum())
    assert 0 < taken < tied
    assert findings(page)["Tie-break"] == (
        f"Of {tied} samples with {cut} vote{'s' if cut > 1 else ''}, {taken} were taken by mean percentile rank: "
        f"{taken / 20:.1%} of the selection."
    )


def test_overlaps_are_those_of_the_tasks_own_tops(
    finished: Project, page: Element, own: np.ndarray, chosen: np.ndarray
) -> None:
    tasks = read_selection(finished.run)["tasks"]
    sets = [*own.T, chosen]
    expected = [[f"{(a & b).sum() / a.sum():.1%}" for b in sets] for a in own.T]
    assert numbers(page, "overlap") == [[task, *row] for task, row in zip(tasks, expected, strict=True)]
    carried = [(column & chosen).sum() for column in own.T]
    votes = own.sum(axis=1)
    needed = [(column & chosen & (votes == votes[chosen].min())).sum() for column in own.T]
    assert numbers(page, "carried") == [
        [task, str(count), f"{count / 20:.1%}", str(last)]
        for task, count, last in zip(tasks, carried, needed, strict=True)
    ]


def test_scores_and_thresholds(finished: Project, page: Element) -> None:
    scores = load_file(finished.run / "influence" / "scores.safetensors")["scores"].astype(np.float64)
    tasks = read_selection(finished.run)["tasks"]
    expected = [
        [task, *(f"{value:.4f}" for value in (s.min(), np.median(s), s.max(), np.percentile(s, 80))), "20"]
        for task, s in zip(tasks, scores.T, strict=True)
    ]
    found = numbers(page, "scores")
    outside = [row.pop(-2) for row in found]
    beyond = beyond_the_axis(scores)
    assert outside == [str(count) for count in beyond.sum(axis=0)]
    left, right = beyond.sum(axis=1)
    said = f"Of {scores.size} scores {left + right} lie off the axis: {left} to the left, {right} to the right."
    assert said in caption(page, "scores")
    assert [row[:-1] for row in found] == expected
    assert [row[-1] for row in found] == [f"± {size:.4f}" for size in noise_by_hand(finished, tasks)]


def beyond_the_axis(scores: np.ndarray) -> np.ndarray:
    """[2, K]: scores left and right of an axis that leaves out 2% at either end, before a fiftieth is added."""
    tau = np.percentile(scores, 80, axis=0)
    low, high = min(np.percentile(scores, 2), tau.min()), max(np.percentile(scores, 98), tau.max())
    room = 0.02 * (high - low)
    return np.array([(scores < low - room).sum(axis=0), (scores > high + room).sum(axis=0)])


def noise_by_hand(finished: Project, tasks: list[str]) -> list[float]:
    """|mean of a task's unit rows| / sqrt(d), the largest of a group."""
    members = {task: [task] for task in tasks} | {"position": ["left_right", "above_below"]}
    rows = {path.name: read_rows(path)["grads"] for path in (finished.run / "val_grads" / "final").iterdir()}
    lengths = {name: np.linalg.norm(grads.astype(np.float64).mean(axis=0)) for name, grads in rows.items()}
    return [max(lengths[name] for name in members[task]) / 512**0.5 for task in tasks]


def test_norms_and_losses_by_answer_length(finished: Project, page: Element, chosen: np.ndarray) -> None:
    found = read_rows(finished.run / "train_grads" / "final")
    for row in numbers(page, "gradients"):
        low, _, high = row[0].partition("–")
        inside = (found["target_tokens"] >= int(low)) & (found["target_tokens"] <= int(high or low))
        assert row[1] == str(inside.sum())
        assert row[2] == f"{np.median(found['norms'][inside].astype(np.float64)):.3g}"
        assert row[5] == f"{np.median(found['losses'][inside].astype(np.float64)):.3f}"
        picked = found["norms"][inside & chosen].astype(np.float64)
        assert row[4] == (f"{np.median(picked):.3g}" if len(picked) else "–")
    assert findings(page)["Zero gradients"] == "No valid record has a gradient of zero."


def test_samples_stand_in_the_order_of_the_votes(
    finished: Project, page: Element, own: np.ndarray, chosen: np.ndarray
) -> None:
    votes = own.sum(axis=1)
    shown = page.one("table", id="samples").one("tbody").all("tr")
    row_of = [int(re.search(r"Row (\d+)", item.text)[1]) for item in shown]  # type: ignore[index]
    assert len(set(row_of)) == len(row_of)
    by_kind: dict[str, list[int]] = {}
    for row, item in zip(row_of, shown, strict=True):
        for kind in item.attributes["data-kinds"].split():
            by_kind.setdefault(kind, []).append(row)
    assert {kind: len(members) for kind, members in by_kind.items()} == {
        "top": 24, "above": 20, "below": 24, "bottom": 24, "random": 24,
    }  # fmt: skip
    assert sorted(by_kind["above"]) == np.flatnonzero(chosen).tolist()
    cut = votes[chosen].min()
    left = votes[~chosen]
    assert sorted(votes[by_kind["below"]]) == sorted(np.sort(left)[::-1][:24])
    assert max(votes[by_kind["below"]]) <= cut
    assert sorted(votes[by_kind["bottom"]]) == sorted(np.sort(left)[:24])
    first = shown[0]
    record = json.loads((finished.root / "data" / "train.json").read_text())[row_of[0]]
    assert record["conversations"][1]["value"] in [line.text for line in first.all("p")]
    ticks = [" (in its top)" in item.text for item in first.one("ul", **{"class": "scores"}).all("li")]
    assert ticks == own[row_of[0]].tolist()


def test_how_it_was_made(finished: Project, page: Element) -> None:
    made = page.one("section", id="made")
    tables = {table.one("caption").text: rows(table) for table in made.all("table")}
    times = {row[0]: row[1:] for row in tables["Time and throughput of the stages"]}
    assert times["train-grads"][0] == "100 rows, 3 chunks"
    seconds = sum(
        json.loads(path.read_text())["seconds"]
        for path in (finished.run / "train_grads" / "final").glob("chunk-*/manifest.json")
    )
    assert times["train-grads"][2] == f"{100 / seconds:,.1f} rows/s"
    assert times["warm-up"][0] == "4 steps on 30 records"
    for stage in ("val-grads", "merge", "specialist"):
        assert times[stage][1] != "not noted"
    machines = {row[0]: row[1] for row in tables["Hardware and versions"]}
    assert machines["warm-up, val-grads, train-grads"] == machines["this page"]
    fingerprint = dict(tables["Fingerprint"])
    assert fingerprint["selection"] == read_selection(finished.run)["fingerprint"]
    assert fingerprint["dim"] == "512"
    assert MARK + made.one("pre").text == (finished.run / "config.yaml").read_text()


def test_every_figure_is_there_in_each_form(finished: Project, page: Element) -> None:
    folder = finished.run / "report" / "figures"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")
    }
    for name in FIGURES:
        with Image.open(folder / f"{name}.png") as image:
            assert image.width == 1600
            assert len(image.convert("L").getcolors()) > 5
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    ids = [element.attributes["id"] for tag in ("h3", "figcaption") for element in page.all(tag) if element.attributes]
    drawn = page.all("svg")
    assert len(drawn) == 2 * len(FIGURES)
    for svg in drawn:
        assert svg.attributes["role"] == "img"
        assert set(svg.attributes["aria-labelledby"].split()) <= set(ids)
    every = [element.attributes["id"] for element in _everything(page) if "id" in element.attributes]
    assert [name for name, times in Counter(every).items() if times > 1] == []


def _everything(element: Element) -> list[Element]:
    own = [child for child in element.children if isinstance(child, Element)]
    return own + [found for child in own for found in _everything(child)]


def test_the_page_needs_nothing_outside_itself(finished: Project) -> None:
    text = (finished.run / "report" / "index.html").read_text()
    found = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s)>]{1,12})""", text)
    assert len(found) > 100
    assert [target for target in found if not target.startswith(("data:", "#"))] == []


def test_again_it_is_there_and_after_a_change_it_is_made_anew(copy_of_finished: Project) -> None:
    page = copy_of_finished.run / "report" / "index.html"
    copy_of_finished.icons("report")  # the copy lies elsewhere, which the config on the page shows
    before = page.stat().st_mtime_ns
    again = copy_of_finished.icons("report")
    assert again.out == f"report: {page}, already done\n"
    assert page.stat().st_mtime_ns == before
    (copy_of_finished.run / "report" / "figures" / "votes.png").write_bytes(b"cut off")
    assert "written to" in copy_of_finished.icons("report").out
    assert "votes needed" not in page.read_text()
    copy_of_finished.icons("generalist", "--set", "selection.percent=10")
    assert "written to" in copy_of_finished.icons("report", "--set", "selection.percent=10").out
    assert "10 of the 100 records of train.json" in page.read_text()
    outcome = copy_of_finished.icons("report", "--set", "selection.percent=30")
    assert "no selection vote-30 yet, so the page is about vote-10\n" in outcome.out


def test_one_clear_line_where_something_is_missing(copy_of_finished: Project) -> None:
    run = copy_of_finished.run
    outcome = copy_of_finished.icons("report", "--selection", "vote-7")
    assert (outcome.code, outcome.err) == (2, f"error: no selection 'vote-7' in {run}/selection; there are vote-20\n")
    votes = run / "selection" / "vote-20" / "votes.safetensors"
    votes.write_bytes(votes.read_bytes()[:-2] + b"\7\0")
    outcome = copy_of_finished.icons("report")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {votes} is not as it was written; run `icons generalist`")
    shutil.rmtree(run / "selection")
    outcome = copy_of_finished.icons("report")
    assert outcome.code == 2
    assert outcome.err == (
        f"error: no selection in {run}/selection yet; run `icons generalist` (or `icons run`) first\n"
    )


def test_several_selections_are_compared(copy_of_finished: Project) -> None:
    for percent in (10, 40):
        sets = ["--set", f"selection.percent={percent}", "--set", f"selection.name=vote-{percent}"]
        assert copy_of_finished.icons("generalist", *sets).code == 0
    assert copy_of_finished.icons("report").code == 0
    page = read_page(copy_of_finished.run / "report" / "index.html")
    names = ["vote-20", "vote-10", "vote-40"]
    sets_of = [set(read_selection(copy_of_finished.run, name)["indices"]) for name in names]
    assert numbers(page, "selections") == [
        [name, *(f"{len(a & b) / len(a):.1%}" for b in sets_of)] for name, a in zip(names, sets_of, strict=True)
    ]
    table = rows(next(t for t in page.all("table") if "Selections and how far" in t.one("caption").text))
    assert [row[0] for row in table] == names
    both, either = sets_of[0] & sets_of[2], sets_of[0] | sets_of[2]
    assert table[2][4:7] == [str(len(both)), f"{len(both) / len(either):.3f}", f"{len(both) / (20 * 40 / 100):.2f} ×"]
    assert (copy_of_finished.run / "report" / "figures" / "selections.png").is_file()
    # named, in the order given, and what the page no longer has is taken away
    assert copy_of_finished.icons("report", "--selection", "vote-10").code == 0
    page = read_page(copy_of_finished.run / "report" / "index.html")
    assert page.one("h1").text.startswith("vote-10 of ")
    assert not (copy_of_finished.run / "report" / "figures" / "selections.png").exists()


def test_methods_without_votes(copy_of_finished: Project) -> None:
    for method in ("mean", "spice"):
        outcome = copy_of_finished.icons(
            "generalist", "--set", f"selection.method={method}", "--set", "selection.stability=true"
        )
        assert outcome.code == 0, outcome.err
    run = copy_of_finished.run
    scores = load_file(run / "influence" / "scores.safetensors")["scores"].astype(np.float64).mean(axis=1)
    assert copy_of_finished.icons("report", "--selection", "mean-20").code == 0
    page = read_page(run / "report" / "index.html")
    assert "chosen by mean; 6 tasks scored them" in page.text
    best = np.sort(scores)[::-1][:20]
    data, selection = numbers(page, "values")
    assert [float(cell) for cell in data[1:4]] == pytest.approx(
        [scores.min(), np.median(scores), scores.max()], rel=1e-4
    )
    assert [float(cell) for cell in selection[1:4]] == pytest.approx([best[-1], np.median(best), best[0]], rel=1e-4)
    stability = json.loads((run / "selection" / "mean-20" / "stability.json").read_text())["halves"]
    assert f"{stability['both'] / 20:.1%} of the selection is the same" in findings(page)["Halves"]
    assert copy_of_finished.icons("report", "--selection", "spice-20").code == 0
    page = read_page(run / "report" / "index.html")
    kinds = [option.attributes["value"] for option in page.all("select")[0].all("option")]
    assert kinds == ["", "chosen", "left", "random"]  # its picks have no order
    notes = read_selection(run, "spice-20")["notes"]["spice"]
    table = next(t for t in page.all("table") if t.one("caption").text == "What spice reports")
    assert dict(rows(table))["spice: log determinant"] == f"{notes['log_determinant']:.4g}"


def test_a_selection_of_other_scores_is_not_mixed_in(copy_of_finished: Project) -> None:
    old = copy_of_finished.run / "selection" / "old"
    shutil.copytree(copy_of_finished.run / "selection" / "vote-20", old)
    del copy_of_finished.raw["tasks"][0]
    copy_of_finished.save()
    outcome = copy_of_finished.icons("run")
    assert outcome.code == 0, outcome.err
    assert re.search(r"without old, vote-20\.[0-9a-f]{8} \(made of other scores\)", outcome.out)
    page = read_page(copy_of_finished.run / "report" / "index.html")
    assert findings(page)["Left out"].startswith("old, vote-20.")
    outcome = copy_of_finished.icons("report", "--selection", "vote-20", "--selection", "old")
    assert outcome.code == 2
    assert outcome.err.startswith("error: selection old was not made of the scores in ")


def test_skipped_records_are_named_by_kind(copy_of_finished: Project) -> None:
    images = sorted((copy_of_finished.root / "data" / "images" / "train").glob("*.png"))
    images[0].unlink()
    images[1].unlink()
    images[2].write_bytes(b"no picture")
    shutil.rmtree(copy_of_finished.run)
    outcome = copy_of_finished.icons("run", "--set", "on_bad_record=skip")
    assert outcome.code == 0, outcome.err
    page = read_page(copy_of_finished.run / "report" / "index.html")
    trust = page.one("section", id="trust")
    problems = [
        (item.one("b").text, item.all("bdi")[0].text)
        for part in trust.all("ul", **{"class": "problems"})[-1:]
        for item in part.children
        if isinstance(item, Element)
    ]
    assert problems == [("2", "image … does not exist"), ("1", "image … is not an image")]
    assert str(images[2]) in trust.text
    assert findings(page)["Records"].startswith("3 of 100 (3.00%) are invalid")


def test_without_gradient_rows_the_page_says_so(copy_of_finished: Project) -> None:
    for path in Path(copy_of_finished.run / "train_grads").rglob("shard-*"):
        path.unlink()
    assert copy_of_finished.icons("report").code == 0
    page = read_page(copy_of_finished.run / "report" / "index.html")
    assert "no longer on disk" in findings(page)["Lengths"]
    assert page.all("figure", id="figure-gradients") == []


def test_figures_for_a_paper_and_their_numbers(copy_of_finished: Project) -> None:
    figures = copy_of_finished.run / "report" / "figures"
    assert not list(figures.glob("*.pdf"))
    assert copy_of_finished.icons("report", "--pdf").code == 0
    for name in ("sources", "overlap"):
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert width_in_inches(figures / f"{name}.pdf") == pytest.approx(6.9)
        assert width_in_inches(figures / f"{name}-column.pdf") == pytest.approx(3.3)
        rows = list(csv.reader((figures / f"{name}.csv").read_text().splitlines()))
        assert len({len(row) for row in rows}) == 1
        assert len(rows) > 2
    assert "already done" in copy_of_finished.icons("report", "--pdf").out
    assert "already done" in copy_of_finished.icons("report").out


def width_in_inches(pdf: Path) -> float:
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", pdf.read_bytes())
    assert box is not None
    return float(box[1]) / 72


def test_every_file_of_a_figure_carries_its_legend(finished: Project) -> None:
    figures = finished.run / "report" / "figures"
    wanted = {
        "sources": ["share of the data", "share of the selection"],
        "answers": ["in the data", "in the selection"],
        "lengths": ["the data", "the selection"],
        "scores": ["below", "at or above the threshold: a vote", "threshold", "reach of the noise"],
        "votes": ["selected", "not selected", "the class that the cut divides"],
        "overlap": ["less than by chance", "as by chance", "more", "itself, no value"],
        "carried": ["with a vote to spare", "its vote was needed", "by chance"],
        "gradients": ["median", "middle half of the samples", "5 to 95%", "median of the selected"],
        "warmup": ["loss per token (left)", "learning rate (right)"],
    }
    assert set(wanted) == FIGURES
    for name, keys in wanted.items():
        root = ElementTree.parse(figures / f"{name}.svg").getroot()
        words = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert set(keys) <= set(words), name


def test_the_page_names_run_and_model(finished: Project, page: Element) -> None:
    parent = finished.run.parent.name
    model = Path(finished.raw["model"]["base"])
    title = page.one("title").text
    assert title.startswith(f"vote-20 of {parent}/{finished.run.name}, model ")
    assert title.removesuffix(" – ICONS report").endswith(model.name)
    assert str(finished.run) in page.one("p", **{"class": "small paths"}).text
    assert page.one("h1").text in title


def test_of_five_rows_a_caption_draws_no_conclusion(copy_of_finished: Project) -> None:
    for method in ("random", "vote"):
        name = ["--set", f"selection.method={method}", "--set", f"selection.name={method}-5"]
        assert copy_of_finished.icons("generalist", *name, "--set", "selection.percent=5").code == 0
    assert copy_of_finished.icons("report", "--selection", "random-5", "--selection", "vote-5").code == 0
    page = read_page(copy_of_finished.run / "report" / "index.html")
    assert "a random draw can give" in caption(page, "selections")
    assert "a random draw can give" in caption(page, "sources")
    assert "By chance it would be" in caption(page, "carried")
