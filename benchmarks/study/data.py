"""The study's data: the demo's questions at study size, with parts that a selection should leave alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from icons.demo.drawing import FORMAT_PROMPT, TURNS
from icons.demo.skills import SKILLS, Scene, Skill, Turn

TASKS = ("shape", "colour", "count", "left_right", "above_below", "digit")
SHARES = {"useful": 0.40, "redundant": 0.20, "irrelevant": 0.26, "wrong": 0.14}
"""Parts of the training set. Useful: one new record each, all tasks alike. Redundant: copies of such records. Wrong:
another answer of the same kind than the true one. Irrelevant: questions that no task asks."""
COPIES = 8  # of each redundant record


@dataclass(frozen=True)
class Questions:
    """What is asked: the tasks, the questions that no task asks, and how each is drawn."""

    tasks: Sequence[str]
    irrelevant: Sequence[str]
    skills: Mapping[str, Skill]


@dataclass(frozen=True)
class StudyData:
    """`tasks` and `tests` map a task to its validation and its held-out test file; `images` serves all of them."""

    train: Path
    images: Path
    tasks: dict[str, Path]
    tests: dict[str, Path]


def draw_study_data(
    folder: Path, questions: Questions, *, train: int, validation: int, test: int, seed: int
) -> StudyData:
    """Writes train.json, validation/<task>.json, test/<task>.json and images/ under `folder`.

    `validation` and `test` count the records of each task. A training record's `source` is its part of `SHARES` and its
    skill, as in wrong-count. The same arguments give the same bytes.
    """
    useful, redundant, irrelevant, wrong = (round(SHARES[part] * train) for part in SHARES)
    draw, tasks, others = _Draw(folder / "images", seed, questions.skills), questions.tasks, questions.irrelevant
    draw.images.mkdir(parents=True, exist_ok=True)
    records = [
        *(draw.record("useful", index, tasks[index % len(tasks)]) for index in range(useful)),
        *(draw.record("wrong", index, tasks[index % len(tasks)]) for index in range(wrong)),
        *(draw.record("irrelevant", index, others[index % len(others)]) for index in range(irrelevant)),
    ]
    originals = -(-redundant // COPIES)
    for copy in range(redundant):
        original = copy % originals
        records.append(draw.record("redundant", original, tasks[original % len(tasks)]))
    Random(f"{seed}/order").shuffle(records)
    records = [{"id": f"train-{row:06d}", **record} for row, record in enumerate(records)]
    paths = {}
    for part, count in (("validation", validation), ("test", test)):
        for task in tasks:
            paths[part, task] = folder / part / f"{task}.json"
            made = [{"id": f"{task}-{i:04d}", **draw.record(part, i, task)} for i in range(count)]
            _write(paths[part, task], made)
    _write(folder / "train.json", records)
    return StudyData(
        folder / "train.json",
        folder / "images",
        {task: paths["validation", task] for task in tasks},
        {task: paths["test", task] for task in tasks},
    )


def draw_start_data(folder: Path, *, count: int, seed: int) -> tuple[Path, Path]:
    """What the start is trained on, as LLaVA's is on captions: pictures of the tasks' kinds, each with its facts.

    No question is asked, so how to answer one is left to the training that the study is about. Every record has its
    `facts`, pairs of a question and its answer. Returns the records' file and their image folder.
    """
    draw, records = _Draw(folder / "images", seed, PICTURES.skills), []
    for number in range(count):
        record = draw.record("start", number, TASKS[number % len(TASKS)])
        turns = record.pop("conversations")
        asked = [turn["value"].removeprefix("<image>\n").partition("\n")[0] for turn in turns[0::2]]
        facts = [(question, turn["value"]) for question, turn in zip(asked, turns[1::2], strict=True)]
        caption = " ".join(f"{question.rstrip('?')}: {answer}." for question, answer in facts)
        told = [{"from": "human", "value": "<image>\nDescribe the picture."}, {"from": "gpt", "value": caption}]
        records.append({"id": f"start-{number:06d}", **record, "conversations": told, "facts": facts})
    _write(folder / "start.json", records)
    return folder / "start.json", folder / "images"


class _Draw:
    """Records by part, number and skill; of a picture that is drawn twice there is one file."""

    def __init__(self, images: Path, seed: int, skills: Mapping[str, Skill]) -> None:
        self.images, self.seed, self.skills = images, seed, skills

    def record(self, part: str, number: int, skill: str) -> dict[str, Any]:
        rng = Random(f"{self.seed}/{part}/{number}/{skill}")
        turns_asked = 1 if part in ("validation", "test") else rng.choice(TURNS)
        scene = self.skills[skill](rng, turns_asked)
        record: dict[str, Any] = {"source": f"{part}-{skill}"}
        opening = ""
        if scene.image is not None:
            name = f"{part}/{number:06d}-{skill}.png"
            target = self.images / name
            if not target.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                scene.image.save(target)
            record["image"], opening = name, "<image>\n"
        turns = []
        for index, turn in enumerate(scene.turns):
            answer = turn.answer
            if part == "wrong":
                answer = rng.choice([choice for choice in turn.choices if choice != turn.answer])
            question = turn.question if index else f"{opening}{turn.question}\n{FORMAT_PROMPT}"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        return record | {"conversations": turns}


ORIENTATIONS = {"Wide": (64, 48), "Tall": (48, 64), "Square": (48, 48)}
PATTERNS = ("Plain", "Striped", "Dotted")


def draw_orientation(rng: Random, turns: int) -> Scene:
    """An empty picture: wide, tall or square?"""
    answer = rng.choice(tuple(ORIENTATIONS))
    image = Image.new("RGB", ORIENTATIONS[answer], tuple(rng.randint(110, 185) for _ in range(3)))
    return Scene((Turn("Is the picture wide, tall or square?", answer, tuple(ORIENTATIONS)),), image)


def draw_pattern(rng: Random, turns: int) -> Scene:
    """A background without objects: plain, striped or dotted?"""
    answer, gray = rng.choice(PATTERNS), rng.randint(110, 185)
    image = Image.new("RGB", (48, 48), (gray, gray, gray))
    draw, period, other = ImageDraw.Draw(image), rng.randint(5, 9), (gray - 40,) * 3
    for y in range(0, 48, period):
        if answer == "Striped":
            draw.line((0, y, 48, y), fill=other, width=2)
        elif answer == "Dotted":
            for x in range(0, 48, period):
                draw.ellipse((x, y, x + 2, y + 2), fill=other)
    return Scene((Turn("What is the pattern of the background?", answer, PATTERNS),), image)


OTHERS: dict[str, Skill] = {"orientation": draw_orientation, "pattern": draw_pattern}
PICTURES = Questions(TASKS, ("text", "orientation", "text", "pattern"), SKILLS | OTHERS)


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
