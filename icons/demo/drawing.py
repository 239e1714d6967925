"""Draw a small multi-task VQA set in LLaVA format: training records, target tasks and their pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from icons.demo.skills import GROUPS, SKILLS, Scene, Turn

FORMAT_PROMPT = "Answer the question using a single word or phrase."
WRONG, TEXT = "wrong", "text"
TURNS = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)  # how many turns a training record asks for, each equally likely


@dataclass(frozen=True)
class VqaSet:
    """Where a drawn set lies and what is known about it.

    `images` is the folder that the records' `image` paths are relative to. `tasks` maps a task to its file,
    `groups` a task to the group it belongs to (tasks without a group are absent), `tests` a task to held-out records
    like its own (empty where none were asked for). `sources` and `truths` cover the training records, by id: the skill
    ("wrong" and "text" included), and the true answer of every turn.
    """

    folder: Path
    train: Path
    images: Path
    tasks: dict[str, Path]
    groups: dict[str, str]
    sources: dict[str, str]
    truths: dict[str, tuple[str, ...]]
    tests: dict[str, Path]


def draw_vqa_set(
    folder: Path,
    *,
    train_records: int = 1200,
    val_records: int = 24,
    test_records: int = 0,
    wrong_share: float = 0.12,
    text_share: float = 0.1,
    seed: int = 0,
) -> VqaSet:
    """Write train.json, tasks/<name>.json, images/train/*.png and images/tasks/*.png under `folder`.

    `val_records` is the number of records of each target task; with `test_records` there is a folder tests/ like
    tasks/. The shares are parts of the training set, rounded to whole records; the rest goes to the picture skills in
    equal parts. A record depends on its seed, place and skill alone, and the same arguments give the same bytes. Raises
    ValueError for counts below one or shares that are negative or together above one.
    """
    if train_records < 1 or val_records < 1:
        raise ValueError(f"train_records {train_records} and val_records {val_records} must be at least 1")
    if wrong_share < 0 or text_share < 0 or wrong_share + text_share > 1:
        raise ValueError(f"wrong_share {wrong_share} and text_share {text_share} must be shares of one whole")
    (folder / "images" / "train").mkdir(parents=True, exist_ok=True)

    plan = _plan(train_records, round(wrong_share * train_records), round(text_share * train_records))
    Random(f"{seed}/order").shuffle(plan)
    train, truths = [], {}
    for index, (skill, source) in enumerate(plan):
        rng = Random(f"{seed}/train/{index}/{skill}")
        record_id = f"train-{index:06d}"
        scene = SKILLS[skill](rng, rng.choice(TURNS))
        answers = tuple(_wrong_answer(rng, turn) if source == WRONG else turn.answer for turn in scene.turns)
        train.append(_record(folder, record_id, f"train/{index:06d}.png", source, scene, answers))
        truths[record_id] = tuple(turn.answer for turn in scene.turns)
    _write_json(folder / "train.json", train)

    tasks = _draw_tasks(folder, "tasks", val_records, seed)
    tests = _draw_tasks(folder, "tests", test_records, seed) if test_records else {}
    sources = {record["id"]: record["source"] for record in train}
    return VqaSet(folder, folder / "train.json", folder / "images", tasks, dict(GROUPS), sources, truths, tests)


def _draw_tasks(folder: Path, part: str, count: int, seed: int) -> dict[str, Path]:
    """<part>/<skill>.json with `count` records of each skill, and their pictures."""
    for path in (folder / part, folder / "images" / part):
        path.mkdir(parents=True, exist_ok=True)
    paths = {skill: folder / part / f"{skill}.json" for skill in SKILLS}
    for skill, path in paths.items():
        records = []
        for index in range(count):
            scene = SKILLS[skill](Random(f"{seed}/{part}/{index}/{skill}"), 1)
            answers = tuple(turn.answer for turn in scene.turns)
            name = f"{skill}-{index:04d}"
            records.append(_record(folder, name, f"{part}/{name}.png", _source(skill), scene, answers))
        _write_json(path, records)
    return paths


def _source(skill: str) -> str:
    return GROUPS.get(skill, skill)


def _plan(total: int, wrong: int, text: int) -> list[tuple[str, str]]:
    """(skill, source) for every training record; the members of a group share one skill's part."""
    members: dict[str, list[str]] = {}
    for skill in SKILLS:
        if skill != TEXT:
            members.setdefault(_source(skill), []).append(skill)
    sources = list(members)

    def nth(index: int) -> str:
        skills = members[sources[index % len(sources)]]
        return skills[index // len(sources) % len(skills)]

    plan = [(nth(index), WRONG) for index in range(wrong)]
    plan += [(nth(index), _source(nth(index))) for index in range(total - wrong - text)]
    return plan + [(TEXT, TEXT)] * text


def _wrong_answer(rng: Random, turn: Turn) -> str:
    return rng.choice([choice for choice in turn.choices if choice != turn.answer])


def _record(
    folder: Path, record_id: str, image: str, source: str, scene: Scene, answers: tuple[str, ...]
) -> dict[str, Any]:
    """A LLaVA record; writes its picture, if it has one. The format prompt stands in the first turn, as in LLaVA."""
    record: dict[str, Any] = {"id": record_id, "source": source}
    opening = ""
    if scene.image is not None:
        scene.image.save(folder / "images" / image)
        record["image"] = image
        opening = "<image>\n"
    conversations = []
    for index, (turn, answer) in enumerate(zip(scene.turns, answers, strict=True)):
        value = turn.question if index else f"{opening}{turn.question}\n{FORMAT_PROMPT}"
        conversations += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {**record, "conversations": conversations}


def _write_json(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
