"""The drawn set holds what it says: pictures that show the true answers, wrong answers that are wrong."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from icons.demo.drawing import FORMAT_PROMPT, VqaSet, draw_vqa_set
from icons.demo.skills import COLORS, SHAPES, SKILLS, paint_shape


def load(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def answers(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(turn["value"] for turn in record["conversations"][1::2])


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def colored_pixels(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Palette colour -> the (x, y) of its pixels; the background never has exactly a palette colour."""
    found: dict[str, list[tuple[int, int]]] = {}
    names = {color: name for name, color in COLORS.items()}
    with Image.open(path) as image:
        rgb = image.convert("RGB")
        for y in range(rgb.height):
            for x in range(rgb.width):
                name = names.get(rgb.getpixel((x, y)))  # type: ignore[arg-type]
                if name is not None:
                    found.setdefault(name, []).append((x, y))
    return found


def pieces(points: list[tuple[int, int]]) -> int:
    """How many connected patches (8 neighbours) the points form."""
    left, count = set(points), 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            x, y = edge.pop()
            near = {(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)} & left
            left -= near
            edge += near
    return count


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> VqaSet:
    return draw_vqa_set(tmp_path_factory.mktemp("drawn"), train_records=400, val_records=12)


def task_pictures(drawn: VqaSet, task: str) -> list[tuple[dict[str, Any], dict[str, list[tuple[int, int]]]]]:
    return [(record, colored_pixels(drawn.images / record["image"])) for record in load(drawn.tasks[task])]


def test_counts_and_shares_are_kept(drawn: VqaSet) -> None:
    counts = Counter(record["source"] for record in load(drawn.train))
    assert counts["wrong"] == 48
    assert counts["text"] == 40
    assert [counts[skill] for skill in ("shape", "colour", "count", "position", "digit")] == pytest.approx(
        [62] * 5, abs=1
    )
    assert counts.total() == 400
    assert all(len(load(path)) == 12 for path in drawn.tasks.values())


def test_tasks_and_their_group(drawn: VqaSet) -> None:
    assert set(drawn.tasks) == {"shape", "colour", "count", "left_right", "above_below", "digit", "text"}
    assert drawn.groups == {"left_right": "position", "above_below": "position"}


def test_ids_are_unique_and_known(drawn: VqaSet) -> None:
    records = load(drawn.train) + [record for path in drawn.tasks.values() for record in load(path)]
    assert len({record["id"] for record in records}) == len(records)
    assert drawn.sources == {record["id"]: record["source"] for record in load(drawn.train)}


def test_records_are_llava_conversations(drawn: VqaSet) -> None:
    turns = Counter()
    for record in load(drawn.train):
        conversation = record["conversations"]
        assert [turn["from"] for turn in conversation] == ["human", "gpt"] * (len(conversation) // 2)
        first = conversation[0]["value"]
        assert first.endswith("\n" + FORMAT_PROMPT)
        assert first.startswith("<image>\n") == ("image" in record) == (record["source"] != "text")
        assert sum(turn["value"].count("<image>") for turn in conversation) == ("image" in record)
        turns[len(conversation) // 2] += 1
    assert turns[1] > turns[2] > turns[3] > 0


def test_every_picture_opens_and_some_are_not_square(drawn: VqaSet) -> None:
    sizes = Counter()
    records = [*load(drawn.train), *(record for path in drawn.tasks.values() for record in load(path))]
    for record in records:
        if "image" in record:
            with Image.open(drawn.images / record["image"]) as image:
                image.load()
                assert image.mode == "RGB"
                sizes[image.size] += 1
    assert set(sizes) == {(48, 48), (64, 48), (48, 64)}
    assert sizes.total() == len(list(drawn.images.rglob("*.png")))


def test_only_wrong_records_differ_from_the_truth(drawn: VqaSet) -> None:
    for record in load(drawn.train):
        pairs = list(zip(answers(record), drawn.truths[record["id"]], strict=True))
        if record["source"] == "wrong":
            assert all(given != true for given, true in pairs)
        else:
            assert all(given == true for given, true in pairs)


def test_wrong_answers_are_of_the_right_kind(drawn: VqaSet) -> None:
    for record in load(drawn.train):
        kinds = (set(COLORS), set(SHAPES), {"Left", "Right"}, {"Above", "Below"}, set("0123456789"))
        for given, true in zip(answers(record), drawn.truths[record["id"]], strict=True):
            if record["source"] == "wrong":
                assert any({given, true} <= kind for kind in kinds)


def test_colour_answers_are_in_the_picture(drawn: VqaSet) -> None:
    for record, found in task_pictures(drawn, "colour"):
        assert answers(record) == tuple(found)


def test_count_answers_are_the_patches_in_the_picture(drawn: VqaSet) -> None:
    for record, found in task_pictures(drawn, "count"):
        assert answers(record) == tuple(str(pieces(points)) for points in found.values())


@pytest.mark.parametrize(
    ("task", "axis", "low", "high"), [("left_right", 0, "Left", "Right"), ("above_below", 1, "Above", "Below")]
)
def test_lone_objects_lie_where_the_answer_says(drawn: VqaSet, task: str, axis: int, low: str, high: str) -> None:
    alone = [(record, found) for record, found in task_pictures(drawn, task) if len(found) == 1]
    assert {answers(record)[0] for record, _ in alone} == {low, high}
    for record, found in alone:
        with Image.open(drawn.images / record["image"]) as image:
            middle = image.size[axis] / 2
        (points,) = found.values()
        mean = sum(point[axis] for point in points) / len(points)
        assert answers(record) == (low if mean < middle else high,)


def test_digits_with_more_segments_have_more_ink(drawn: VqaSet) -> None:
    lit = {"0": 6, "1": 2, "2": 5, "3": 5, "4": 4, "5": 5, "6": 6, "7": 3, "8": 7, "9": 6}
    ink = {answers(record)[0]: len(next(iter(found.values()))) for record, found in task_pictures(drawn, "digit")}
    for one in ink:
        for other in ink:
            if lit[one] >= lit[other] + 2:
                assert ink[one] > ink[other]


def test_no_two_shapes_look_alike() -> None:
    pictures = []
    for shape in SHAPES:
        image = Image.new("RGB", (32, 32))
        paint_shape(image, shape, (16, 16), 12, (255, 255, 255))
        pictures.append(image.tobytes())
    assert len(set(pictures)) == len(SHAPES)


def test_sums_and_copies_are_right() -> None:
    seen = Counter()
    for seed in range(300):
        (turn,) = SKILLS["text"](Random(seed), 1).turns
        words = turn.question.rstrip("?.").split()
        if "plus" in words:
            assert int(turn.answer) == int(words[2]) + int(words[4])
        elif "minus" in words:
            assert int(turn.answer) == int(words[2]) - int(words[4])
        elif "greater" in words:
            assert turn.answer == ("Yes" if int(words[1]) > int(words[4]) else "No")
        elif "backwards" in words:
            assert turn.answer[::-1] == words[3]
        elif "Repeat" in words:
            assert turn.answer == words[3]
        assert turn.answer in turn.choices
        seen[words[0]] += 1
    assert set(seen) == {"What", "Repeat", "Write", "Is", "Does"}


def test_same_seed_same_bytes_other_seed_other_set(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        draw_vqa_set(tmp_path / name, train_records=40, val_records=2, seed=seed)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "three")


@pytest.mark.parametrize(
    "shares", [{"wrong_share": 0.7, "text_share": 0.4}, {"wrong_share": -0.1}, {"train_records": 0}]
)
def test_impossible_requests_are_refused(tmp_path: Path, shares: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        draw_vqa_set(tmp_path / "new", **shares)
    assert not (tmp_path / "new").exists()
