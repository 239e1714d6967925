"""`icons compare` against sets and counts made by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from icons.selection.compare import Agreement, by_group, by_votes, shared
from tests.conftest import Project, icons

Record = dict[str, Any]


def record(name: object, folder: str | None, text: str = "hello") -> Record:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": text}]
    found: Record = {"id": name, "conversations": turns}
    if folder is not None:
        found["image"] = f"{folder}/x/{name}.jpg"
    if name is None:
        del found["id"]
    return found


# Rows 2 and 3 share an id, rows 6 and 7 have none, rows 8 and 9 are the same record twice.
TRAIN = [
    record("a", "coco"), record("b", "coco"), record("c", "coco", "one"), record("c", "coco", "two"),
    record("d", "gqa"), {**record("e", "gqa"), "source": "special"},
    record(None, None, "six"), record(None, None, "seven"),
    record("t", "vg"), record("t", "vg"), record("f", "vg"), record(12, "vg"),
]  # fmt: skip


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(TRAIN))
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def as_json(*arguments: object) -> dict[str, Any]:
    outcome = icons("compare", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def refused(outcome: Any, *words: str) -> None:
    assert (outcome.code, outcome.err.count("\n"), outcome.err[:7]) == (2, 1, "error: "), outcome.err
    assert all(word in outcome.err for word in words), outcome.err


def test_the_numbers_are_those_of_sets() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.permutation(1000)[:300], rng.permutation(1000)[:200]
    both = set(a.tolist()) & set(b.tolist())
    in_both_a, in_both_b = shared(a, b)
    assert a[in_both_a].tolist() == [item for item in a.tolist() if item in both]
    assert set(b[in_both_b].tolist()) == both
    found = Agreement(300, 200, len(both), 1000)
    assert found.jaccard == len(both) / len(set(a.tolist()) | set(b.tolist()))
    assert (found.share_a, found.share_b, found.expected) == (len(both) / 300, len(both) / 200, 60)
    overlaps = [len(set(rng.permutation(1000)[:300]) & set(range(200))) for _ in range(300)]
    assert abs(np.mean(overlaps) - 60) < 1.5
    groups_a, groups_b = [str(item % 7) for item in a], [str(item % 7) for item in b]
    rows = by_group(groups_a, groups_b, in_both_a)
    own, other, common = Counter(groups_a), Counter(groups_b), Counter(str(item % 7) for item in both)
    assert {row.group: (row.a, row.b, row.both) for row in rows} == {g: (own[g], other[g], common[g]) for g in own}
    assert [row.a + row.b for row in rows] == sorted((row.a + row.b for row in rows), reverse=True)
    votes = by_votes((a % 4).astype(np.int16), in_both_a)
    assert votes == [(v, int((a % 4 == v).sum()), sum(item % 4 == v for item in both)) for v in (3, 2, 1, 0)]
    nothing = Agreement(0, 0, 0)
    assert (nothing.jaccard, nothing.share_a, nothing.expected) == (0, 0, None)


def test_index_files_are_compared_by_row(tmp_path: Path, train: Path) -> None:
    a = write_json(tmp_path / "a.json", {"indices": [0, 2, 5, 6, 8], "num_train": 12})
    b = write_json(tmp_path / "b.json", [2, 3, 5, 9])
    found = as_json(a, b)
    assert (found["both"], found["share_of_a"], found["share_of_b"]) == (2, 2 / 5, 2 / 4)
    assert (found["jaccard"], found["expected_by_chance"], found["num_train"]) == (2 / 7, 5 * 4 / 12, 12)
    assert "by_source" not in found
    found = as_json(a, b, "--data", train)
    assert found["both"] == 2
    assert {row["group"]: (row["a"], row["b"], row["both"]) for row in found["by_source"]} == {
        "coco": (2, 2, 1),
        "special": (1, 1, 1),
        "(text only)": (1, 0, 0),
        "vg": (1, 1, 0),
    }


@pytest.mark.parametrize("lines", [False, True])
def test_a_data_file_finds_its_rows_in_the_training_data(lines: bool, tmp_path: Path, train: Path) -> None:
    a = write_json(tmp_path / "a.json", [0, 2, 3, 5, 6, 9, 11])
    chosen = [TRAIN[0] | {"model": "x"}, record("d", "elsewhere"), TRAIN[3], TRAIN[7], TRAIN[8], record("new", "vg")]
    b = tmp_path / "b.json"
    b.write_text("\n".join(map(json.dumps, chosen)) if lines else json.dumps(chosen))
    for pair, own, other in (((a, b), "a", "b"), ((b, a), "b", "a")):
        found = as_json(*pair, "--data", train)
        # Row 0 by its id; 3 by its content, its id being that of row 2 too; 8 and 9 are the same record.
        assert (found["both"], found["num_train"]) == (3, 12)
        assert (found[own]["size"], found[other]["size"]) == (7, 6)
        assert found[other]["not_in_training_data"] == 1
        assert found["same_id_not_matched"] == 0
    refused(icons("compare", a, b), "--data")


def test_data_files_are_matched_by_id_where_that_is_safe(tmp_path: Path, train: Path) -> None:
    other = record("b", "moved", "reworded")
    a = write_json(tmp_path / "a.json", [TRAIN[0], TRAIN[1], TRAIN[4]])
    b = write_json(tmp_path / "b.json", [other, TRAIN[4], TRAIN[11]])
    found = as_json(a, b)
    assert (found["both"], found["matched_by"], found["both_with_other_content"]) == (2, "id", 1)
    assert found["expected_by_chance"] is None
    assert "not known without the training data" in icons("compare", a, b).out
    # With a record of no id, or an id twice, an id proves nothing about the training file.
    write_json(a, [TRAIN[1], TRAIN[4], TRAIN[6], TRAIN[8], TRAIN[9]])
    write_json(b, [other, TRAIN[4], TRAIN[6], TRAIN[9]])
    found = as_json(a, b)
    assert (found["both"], found["matched_by"], found["same_id_not_matched"]) == (3, "content", 1)
    found = as_json(a, b, "--data", train)
    assert (found["both"], found["matched_by"], found["both_with_other_content"]) == (4, "id, else content", 1)


def test_votes_beside_an_index_file_are_counted(tmp_path: Path) -> None:
    votes = np.array([3, 0, 2, 2, 1, 3, 0, 0, 2, 1], np.int16)
    a = write_json(tmp_path / "one" / "selected_indices.json", {"indices": [0, 2, 3, 5], "tasks": ["x", "y", "z"]})
    save_file({"votes": votes}, a.parent / "votes.safetensors")
    b = write_json(tmp_path / "b.json", [0, 3, 4])
    found = as_json(a, b)
    assert found["a"]["by_votes"] == [
        {"votes": 3, "selected": 2, "both": 1},
        {"votes": 2, "selected": 2, "both": 1},
    ]
    assert (found["num_train"], found["expected_by_chance"]) == (10, 1.2)
    lines = icons("compare", a, b).out.splitlines()
    assert "votes of A  selected  in B  share" in lines
    assert "3                  2     1  50.0%" in lines
    assert "3 tasks voted: x, y, z" in lines
    save_file({"votes": votes[:3]}, a.parent / "votes.safetensors")
    refused(icons("compare", a, b), str(a), "row 5 is not one of 3")


def test_two_selections_of_a_run(copy_of_finished: Project) -> None:
    sets = ["--set", "selection.name=vote-40", "--set", "selection.percent=40"]
    assert copy_of_finished.icons("generalist", *sets).code == 0
    a, b = (copy_of_finished.run / "selection" / name for name in ("vote-20", "vote-40"))
    rows_a, rows_b = (set(json.loads((folder / "selected_indices.json").read_text())["indices"]) for folder in (a, b))
    for name_a, name_b in [("indices", "indices"), ("indices", "data"), ("data", "indices"), ("data", "data")]:
        files = a / f"selected_{name_a}.json", b / f"selected_{name_b}.json"
        found = as_json(*files, "--data", copy_of_finished.config)
        assert (found["both"], found["num_train"]) == (len(rows_a & rows_b), 100)
        assert sum(row["both"] for row in found["by_source"]) == len(rows_a & rows_b)
        assert ("by_votes" in found["a"], "by_votes" in found["b"]) == (name_a == "indices", name_b == "indices")
    text = icons(
        "compare", a / "selected_indices.json", b / "selected_data.json", "--data", copy_of_finished.config
    ).out
    assert f"in both              {len(rows_a & rows_b)} (matched by id)" in text
    assert f"of 100 training records, found {len(rows_a & rows_b) / 8:.2f} times as many" in text


BAD = {
    '{"rows": [1]}': 'expected a list of row numbers, or an object with one under "indices"',
    '{"indices": 3}': "expected a list of row numbers",
    "[1, 2, true]": "True is no row number",
    "[-1]": "-1 is no row number",
    "[1, 2.5]": "2.5 is no row number",
    "[3, 1, 3]": "row 3 stands twice",
    "[1, 2": "broken JSON",
    '{"indices": [1}': "broken JSON",
    '{"indices": [5], "num_train": 4}': "row 5 is not one of 4",
    '{"indices": [5], "num_train": "4"}': "num_train is '4'",
    "[]": "holds no records",
    "": "holds no records",
    '["a"]': "expected an object",
}


@pytest.mark.parametrize("content", BAD)
def test_a_file_that_is_no_selection_is_named(content: str, tmp_path: Path) -> None:
    good, bad = write_json(tmp_path / "good.json", [1]), tmp_path / "bad.json"
    bad.write_text(content)
    refused(icons("compare", good, bad), str(bad), BAD[content])
    refused(icons("compare", bad, good), str(bad), BAD[content])


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, train: Path) -> None:
    a = write_json(tmp_path / "a.json", {"indices": [0], "num_train": 12})
    b = write_json(tmp_path / "b.json", {"indices": [0], "num_train": 13})
    refused(icons("compare", a, b), "not selections of one training file", f"{a} of 12", f"{b} of 13")
    refused(icons("compare", a, tmp_path / "gone.json"), "gone.json: cannot be read (No such file or directory)")
    refused(icons("compare", a, write_json(b, [12]), "--data", train), f"{b}: row 12 is not in {train} (12 records)")
    refused(icons("compare", a, a, "--data", tmp_path / "none.json"), "none.json: cannot be read")


def test_several_images_tell_records_apart(tmp_path: Path) -> None:
    said = {"conversations": record(None, None)["conversations"]}
    a = write_json(tmp_path / "a.json", [{**said, "images": ["coco/1.png", "coco/2.png"]}])
    b = write_json(tmp_path / "b.json", [{**said, "images": ["coco/1.png", "coco/3.png"]}])
    found = as_json(a, b)
    assert found["overlap"] == 0 if "overlap" in found else found["both"] == 0
    again = as_json(a, write_json(tmp_path / "c.json", [{**said, "image": ["coco/1.png", "coco/2.png"]}]))
    assert again["jaccard"] == 1


def test_answers_that_a_selection_prefers_are_shown(copy_of_finished: Project) -> None:
    records = json.loads((copy_of_finished.root / "data" / "train.json").read_text())
    for row, record in enumerate(records):
        record["source"] = "one"
        record["conversations"] = [record["conversations"][0], {"from": "gpt", "value": "Yes" if row % 2 else "No"}]
    data = copy_of_finished.root / "yes-no.json"
    data.write_text(json.dumps(records))
    yes, both = copy_of_finished.root / "yes.json", copy_of_finished.root / "both.json"
    yes.write_text(json.dumps(list(range(1, 41, 2))))
    both.write_text(json.dumps(list(range(20))))
    report = json.loads(icons("compare", yes, both, "--data", data, "--json").out)
    (row,) = report["answers"]
    assert row["a"]["distance"] == pytest.approx(0.5)
    assert row["b"]["distance"] == 0
    assert row["a"]["skewed"]
    assert not row["b"]["skewed"]
    assert {(top["answer"], top["data"], top["a"], top["b"]) for top in row["top"]} == {
        ("Yes", 0.5, 1, 0.5), ("No", 0.5, 0, 0.5),
    }  # fmt: skip
    assert "50% -> 100%, 50%" in icons("compare", yes, both, "--data", data).out
