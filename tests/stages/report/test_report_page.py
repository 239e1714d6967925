"""The page as a browser shows it, of a project whose every text tries to be something else."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from icons.store.fingerprint import file_digest
from icons.store.scores import Scores, write_scores
from tests.conftest import Project
from tests.page import Element, read_page

SCRIPT = "<script>document.title = 'taken over'</script>"
BREAK_OUT = "</script></td></table></style>--><img src=x onerror=alert(1)>"
ARABIC, JAPANESE = "ما هذا؟ قطة صغيرة", "これは何ですか。猫です。"
ROWS = 40
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def records(images: Path) -> list[Any]:
    """Every record stands in the table: there are as few as one kind of sample shows."""
    Image.effect_noise((900, 700), 80).convert("RGB").save(images / "noise.png")
    Image.new("RGB", (40, 30), (0, 114, 178)).save(images / 'a"><b>$x$.png')
    Image.new("RGB", (3000, 20), (0, 114, 178)).save(images / "wide.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    named: list[Any] = [
        {"id": SCRIPT, "source": BREAK_OUT, "image": "noise.png", "conversations": turns(SCRIPT, BREAK_OUT)},
        {"id": 7, "source": "$\\alpha$ & <b>", "image": 'a"><b>$x$.png', "conversations": turns("{{ 7 * 6 }}", "&lt;")},
        {"id": ARABIC, "source": JAPANESE, "conversations": turns(ARABIC, JAPANESE)},
        {"id": "missing", "image": "coco/gone.png", "conversations": turns("<image>\nWhere?", "Nowhere")},
        {"id": "broken", "image": "broken.png", "conversations": turns("<image>\nWhat?", "Nothing")},
        {"id": "outside", "image": "../../etc/passwd", "conversations": turns("<image>\nWhose?", "Yours")},
        {"id": "many", "images": ["wide.png"] * 5, "conversations": turns("<image>" * 5, "Five")},
        {"id": "long", "conversations": turns(*["word " * 400] * 40)},
        {"id": "half \ud800 character", "conversations": turns("\ud800 \x00 \x1b", "\udfff")},
        {"id": None, "conversations": "not a list"},
        {"id": ["a", "list"], "image": 5, "conversations": [3, {"from": 4, "value": "x"}, {"from": "gpt"}]},
    ]
    return named + [
        {"id": f"plain-{n}", "conversations": turns(f"Question {n}?", f"Answer {n}")} for n in range(ROWS - len(named))
    ]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Project:
    """A finished project as far as a report reads it; the gradient rows are gone."""
    root = tmp_path_factory.mktemp("nasty run <b>")
    (root / "images").mkdir()
    # As JSON lines, the last one cut off; half characters only as escapes.
    lines = [json.dumps(record) for record in records(root / "images")]
    (root / "train.jsonl").write_text("\n".join([*lines, '{"id": "cut off']) + "\n")
    (root / "val.json").write_text(json.dumps([{"conversations": turns("?", "!")}]))
    raw = {
        "output_dir": "run",
        "model": {"base": str(tiny_model), "dtype": "float32", "device": "cpu"},
        "train": {"data": "train.jsonl", "images": "images"},
        "tasks": [{"name": name, "data": "val.json"} for name in ("first", "second", "third")],
    }
    project = Project(root, raw)
    project.save()
    drawn = np.random.default_rng(0)
    scores = drawn.standard_normal((ROWS + 1, 3), np.float32)
    valid = np.arange(ROWS + 1) < ROWS
    scores[~valid] = 0
    numbers = [np.abs(drawn.standard_normal(ROWS + 1, np.float32)) * valid for _ in range(3)]
    digest = file_digest(root / "train.jsonl")[:16]
    write_scores(
        project.run / "influence" / "scores.safetensors",
        Scores(scores, valid, *numbers, ["first", "second", "third"], "0" * 16, digest, {}),
    )
    for command in ("generalist", "report"):
        outcome = project.icons(command)
        assert outcome.code == 0, outcome.err
    return project


def page_of(project: Project) -> Path:
    return project.run / "report" / "index.html"


def test_what_users_write_stays_text(nasty: Project) -> None:
    page = read_page(page_of(nasty))  # asserts that every tag is closed where it was opened
    scripts = page.all("script")
    assert len(scripts) == 1
    assert "taken over" not in scripts[0].text
    sources = [image.attributes["src"] for image in page.all("img") if "src" in image.attributes]
    assert not [source for source in sources if not source.startswith("data:image/")]
    assert not [name for element in everything(page) for name in element.attributes if name.startswith("on")]
    samples = page.one("table", id="samples").text
    for text in (SCRIPT, BREAK_OUT, ARABIC, JAPANESE, "{{ 7 * 6 }}", "&lt;", "$\\alpha$ & <b>", "\ufffd"):
        assert text in samples
    assert "\ud800" not in samples
    for reason in ("gone.png' does not exist", "broken.png' ", "leaves the image folder", "not a path"):
        assert reason in samples
    assert "and 3 more images" in samples
    assert "(unreadable)" in page.one("figure", id="figure-sources").text


def test_long_texts_are_cut_and_pictures_small(nasty: Project) -> None:
    page = read_page(page_of(nasty))
    long = next(row for row in page.one("table", id="samples").all("tr") if "long" in row.text)
    assert "All of it: 40 turns, 80,000 characters" in long.text
    assert "74,000 more characters are not on this page" in long.text
    assert len(long.text) < 9_000
    sizes = [len(image.attributes["src"]) for image in page.one("table", id="samples").all("img")]
    assert len(sizes) == 4
    assert max(sizes) < 53_500  # 40,000 bytes in base 64


def everything(element: Element) -> list[Element]:
    own = [child for child in element.children if isinstance(child, Element)]
    return own + [found for child in own for found in everything(child)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with driver.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """An open page, with whatever it said on its console and asked the world for."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())


@pytest.mark.parametrize("which", ["finished", "nasty"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_in_a_browser_every_figure_is_seen(
    browser: Any, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    path = page_of(request.getfixturevalue(which))
    visit = Visit(browser, path, width, scheme)
    figures = visit.page.locator("figure").all()
    assert len(figures) >= 6
    for figure in figures:
        seen = [box for svg in figure.locator("svg").all() if (box := svg.bounding_box())]
        assert len(seen) == 1
        assert seen[0]["width"] > 0.85 * min(width, 832)
        assert seen[0]["height"] > 60
        # the letters of the figure stand out from the page, and can be read on a phone
        shown = figure.locator("svg:visible text").first
        ink, paper = (
            shown.evaluate("element => getComputedStyle(element).fill"),
            visit.page.evaluate("getComputedStyle(document.body).backgroundColor"),
        )
        assert contrast(ink, paper) > 4.5
        assert shown.bounding_box()["height"] > 9
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.page.title() == shown_title(request.getfixturevalue(which))
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [path.as_uri()]


def shown_title(project: Project) -> str:
    """Folders whose name says nothing are named with the one above."""
    base = Path(project.raw["model"]["base"])
    base = base if base.is_absolute() else project.root / base
    model = base.name if base.name != "model" else f"{base.parent.name}/model"
    return f"vote-20 of {project.root.name}/run, model {model} – ICONS report"


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two rgb(...) colours."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_in_a_browser_the_table_filters_and_pages(browser: Any, nasty: Project) -> None:
    page = Visit(browser, page_of(nasty)).page
    shown = page.locator("#samples tbody tr:visible")
    total = page.locator("#samples tbody tr").count()
    assert total == ROWS
    here = f"{total} shown here; the data have {ROWS + 1} rows"
    assert shown.count() == 6
    assert page.locator("#found").inner_text() == f"1 to 6 of the {total} shown here; the data have {ROWS + 1} rows."
    first = shown.first.inner_text()
    page.get_by_role("button", name="Previous").dispatch_event("click")  # at the beginning: nothing happens
    assert shown.first.inner_text() == first
    page.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    assert shown.first.inner_text() != first
    assert page.locator("#found").inner_text() == f"7 to 12 of the {here}."
    assert page.get_by_role("button", name="Next").evaluate("element => element === document.activeElement")
    page.locator("#filter [name=kind]").select_option("top")
    assert page.locator("#found").inner_text() == f"1 to 6 of 24 that fit, of the {here}."
    page.locator("#filter [name=kind]").select_option("")
    page.locator("#filter [name=source]").select_option(BREAK_OUT)
    assert shown.count() == 1
    assert SCRIPT in shown.first.inner_text()
    page.locator("#filter [name=source]").select_option("")
    page.locator("#filter [name=text]").fill("ANSWER 12")
    assert shown.count() == 1
    assert not page.locator("#pager").is_visible()
    page.locator("#filter [name=text]").fill("no such words")
    assert page.locator("#found").inner_text() == f"None of the {here}. Take a filter away."


def test_in_a_browser_without_scripts_all_samples_are_there(browser: Any, nasty: Project) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_of(nasty).as_uri())
    assert page.locator("#samples tbody tr:visible").count() == ROWS
    assert not page.locator("#filter").is_visible()


def test_in_a_browser_any_row_is_found_by_its_number(browser: Any, finished: Project) -> None:
    visit = Visit(browser, page_of(finished))
    field, about = visit.page.locator("#filter [name=text]"), visit.page.locator("#row")
    selection = finished.run / "selection" / "vote-20"
    chosen = set(json.loads((selection / "selected_indices.json").read_text())["indices"])
    votes = load_file(selection / "votes.safetensors")["votes"]
    shown = {int(row.get_attribute("data-row")) for row in visit.page.locator("#samples tbody tr").all()}
    places = {}
    for row in range(len(votes)):
        field.fill(f"row {row}" if row % 2 else str(row))
        about.get_by_text(f"Row {row}:").wait_for()
        said = about.inner_text()
        assert ("not selected by vote-20" not in said) == (row in chosen)
        assert f" {votes[row]} of 6 votes" in said
        assert ("It is shown below" in said) == (row in shown)
        assert said.endswith(f"icons inspect {shlex.quote(str(finished.run / 'config.yaml'))} --row {row}")
        places[row] = float(re.search(r"in the first ([\d.]+)%", said)[1])  # type: ignore[index]
    assert max(places[row] for row in chosen) == 20
    assert sorted(places.values()) == list(range(1, 101))
    field.fill("100")
    about.get_by_text("No row 100: the data have rows 0 to 99.").wait_for()
    field.fill("")
    assert about.inner_text() == ""
    assert visit.said == []


def test_in_a_browser_an_invalid_row_is_found_as_such(browser: Any, nasty: Project) -> None:
    page = Visit(browser, page_of(nasty)).page
    page.locator("#filter [name=text]").fill(str(ROWS))
    page.get_by_text(f"Row {ROWS}: invalid, so it has no vote and is never selected.").wait_for()


def test_in_a_browser_a_picture_opens_large(browser: Any, nasty: Project) -> None:
    visit = Visit(browser, page_of(nasty))
    page, large = visit.page, visit.page.locator("#large")
    button = page.get_by_role("button", name="Open large: noise.png")
    page.locator("#filter [name=text]").fill("taken over")
    small = button.locator("img").bounding_box()
    button.focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog", name="Row 0: noise.png, 900 × 700, here as").is_visible()
    assert large.locator("img").bounding_box()["width"] > 4 * small["width"]
    assert large.locator("img").evaluate("image => Math.max(image.naturalWidth, image.naturalHeight)") <= 512
    page.keyboard.press("Escape")
    assert not large.is_visible()
    assert button.evaluate("element => element === document.activeElement")
    button.click()
    large.get_by_role("button", name="Close").click()
    assert not large.is_visible()
    button.click()
    page.mouse.click(3, 3)
    assert not large.is_visible()
    assert visit.said == []


def test_in_a_browser_a_table_that_scrolls_shows_an_edge(browser: Any, finished: Project) -> None:
    page = Visit(browser, page_of(finished), 390).page
    page.locator("#figure-scores summary").click()
    table = page.locator("#figure-scores .scroll")
    assert table.evaluate("element => element.scrollWidth > element.clientWidth")
    with Image.open(io.BytesIO(table.screenshot())) as image:
        seen = image.convert("RGB")
        edge, paper = (seen.getpixel((x, seen.height - 4)) for x in (seen.width - 1, 3))
    assert contrast(f"rgb{edge}", f"rgb{paper}") > 3
