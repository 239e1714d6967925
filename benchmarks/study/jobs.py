"""The study's pieces of work: icons' own stages on each arm. What is finished lies in the folder and stays."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from icons.config import Config
from icons.config_file import load_config
from icons.evaluation.measures import mean_over_tasks, measured
from icons.pipeline import run
from icons.selection.answers import AnswerBook, answers_by_source, first_answer, mean_distance
from icons.stages.generalist.generalist import generalist
from icons.stages.training.evaluate import Candidate, answer
from icons.stages.training.finetune import choose, finetune
from icons.store.files import read_json, write_json
from icons.store.indices import read_indices
from icons.store.layout import INDICES, RunFolder
from study.data import SHARES, draw_study_data
from study.settings import SETTINGS, Size


@dataclass(frozen=True)
class Arm:
    """What is trained on: by `method` so many percent (None: everything), with exact influence, with InfoBatch.

    `group` is the part of the study it belongs to; `draw` tells random draws apart; `steps` cuts the training after as
    many steps as so many percent of the data take.
    """

    name: str
    method: str | None = None
    percent: int = 100
    group: str = "core"
    exact: bool = False
    infobatch: bool = False
    draw: int = 0
    steps: int = 100

    @property
    def file(self) -> str:
        return re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")


BEST = ("proportional", "coverage")
ARMS = (
    Arm("everything"),
    Arm("random", "random", 20),
    Arm("random, second draw", "random", 20, draw=1),
    Arm("vote", "vote", 20),
    *(Arm(method, method, 20) for method in BEST),
    *(Arm(f"{method} {p}%", method, p, "sizes") for p in (5, 10) for method in ("random", "vote", *BEST)),
    *(Arm(f"{method} 40%", method, 40, "sizes") for method in ("random", BEST[0])),
    *(Arm(method, method, 20, "methods") for method in ("mean", "max", "rank", "norm", "direct-merge")),
    *(Arm(method, method, 20, "methods") for method in ("spice", "loss", "grad-norm")),
    Arm("vote, exact influence", "vote", 20, "methods", exact=True),
    Arm("everything, InfoBatch", group="methods", infobatch=True),
    Arm("everything, the steps of 20%", group="steps", steps=20),
)
GROUPS = ("core", "sizes", "methods", "steps")


@dataclass(frozen=True)
class Study:
    """Where the study lies, what it is made in and how large, and which groups of arms belong to it."""

    root: Path
    setting: str
    size: Size
    groups: tuple[str, ...]

    @property
    def arms(self) -> list[Arm]:
        return [arm for arm in ARMS if arm.group in self.groups]


def start(study: Study) -> None:
    """The model that every training of every seed begins with: root/start."""
    with _logged(study.root, "start"):
        SETTINGS[study.setting].make_start(study.root / "start", study.size)


def prepare(study: Study, seed: int) -> None:
    """A seed's data, gradients, scores and selections, sketched and (where an arm asks for it) exact."""
    with _logged(study.root, f"seed-{seed}"):
        for exact in sorted({arm.exact for arm in study.arms}):
            run(config_of(study, seed, Arm("vote, exact influence" if exact else "vote", "vote", 20, exact=exact)))
        for arm in study.arms:
            if arm.method is not None:
                generalist(config_of(study, seed, arm))


def train(study: Study, seed: int, arm: Arm) -> None:
    """Leaves root/results/seed-<seed>/<arm>.json: scores on the test sets, what was selected, passes, seconds."""
    target = _result(study.root, seed, arm)
    if target.is_file():
        return
    begin = time.monotonic()
    with _logged(study.root, f"seed-{seed}"):
        config = config_of(study, seed, arm)
        folder = RunFolder(config.output_dir)
        indices = None if arm.method is None else folder.selection(config.selection.name) / INDICES
        finetune(config, choose(config, None, indices, arm.method is None, None), arm.file)
        trained = folder.finetune(arm.file)
        content = _asked(config, Candidate(arm.file, trained / "final", folder.evaluation(arm.file)))
        content |= _about(config, indices) | {"sample_passes": _passes(trained, config)}
        for path in trained.glob("checkpoint-*"):
            shutil.rmtree(path)
    write_json(target, content | {"seconds": round(time.monotonic() - begin, 1)})


def at_start(study: Study, seed: int) -> None:
    """What the start answers before any training, as a result of its own."""
    target = study.root / "results" / f"seed-{seed}" / "start.json"
    if target.is_file():
        return
    with _logged(study.root, f"seed-{seed}"):
        config = config_of(study, seed, ARMS[0])
        write_json(target, _asked(config, Candidate("start", None, RunFolder(config.output_dir).evaluation("start"))))


def result(study: Study, seed: int, arm: Arm) -> dict[str, Any] | None:
    path = _result(study.root, seed, arm)
    content: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return content


def _result(root: Path, seed: int, arm: Arm) -> Path:
    return root / "results" / f"seed-{seed}" / f"{arm.file}.json"


def config_of(study: Study, seed: int, arm: Arm) -> Config:
    """The seed's config with the arm's selection and pruning; draws the data where it is not yet."""
    setting, size, folder = SETTINGS[study.setting], study.size, study.root / f"seed-{seed}"
    drawn, tasks = folder / "data", setting.questions.tasks
    if not (drawn / "train.json").is_file():  # written last
        draw_study_data(
            drawn, setting.questions, train=size.train, validation=size.validation, test=size.test, seed=seed
        )
    rates = {**setting.keys["rates"], "seed": seed}

    def files(part: str) -> list[dict[str, str]]:
        return [{"name": task, "data": f"data/{part}/{task}.json", "images": "data/images"} for task in tasks]

    raw: dict[str, Any] = {
        "output_dir": "run-exact" if arm.exact else "run",
        "model": {"base": "../start", "dtype": "float32", "device": "cpu", **setting.keys["model"]},
        "train": {"data": "data/train.json", "images": "data/images"},
        "warmup": {"fraction": 0.2, "epochs": 2, **rates},
        "finetune": {
            "epochs": size.epochs, "save_steps": 10_000, "batch_size": setting.keys["batch_size"], **rates,
        },
        "tasks": files("validation"),
        "evaluation": {"tasks": files("test")},
        "gradients": {"dim": size.dim, "seed": seed},
        "influence": {"save_matrix": False},
        "selection": {"method": arm.method or "vote", "percent": arm.percent, "seed": seed + 100 * arm.draw},
    }  # fmt: skip
    if arm.exact:  # from the same warm-up
        raw["model"]["adapter"] = "run/warmup/final"
        raw["gradients"]["projection"] = "none"
    if arm.steps < 100:
        a_pass = math.ceil(size.train * arm.steps / 100 / setting.keys["batch_size"])
        raw["finetune"]["max_steps"] = size.epochs * a_pass
    if arm.infobatch:
        raw["training"] = {"pruning": "infobatch"}
    path = folder / f"{arm.file}.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return load_config(path)


def _asked(config: Config, candidate: Candidate) -> dict[str, Any]:
    """Of every task and over all of them: answers exactly right, mean token loss."""
    answers = {t: a.answers for t, a in answer(config, [candidate], config.evaluation.tasks)[candidate.name].items()}
    return {
        measure: {
            "tasks": {task: measured(each, measure).mean for task, each in answers.items()},
            "mean": mean_over_tasks(answers, measure).as_json(),
        }
        for measure in ("exact", "loss")
    }


def _about(config: Config, indices: Path | None) -> dict[str, Any]:
    """Records of each part and of each task among the selected, and how far answers are preferred."""
    records = json.loads(config.train.data.read_text())
    selected_N = np.zeros(len(records), np.bool_)
    selected_N[range(len(records)) if indices is None else read_indices(indices).rows] = True
    parts, skills = zip(*(record["source"].split("-", 1) for record in records), strict=True)
    book = AnswerBook()
    answer_N = np.array([book.number(first_answer(record)) for record in records], np.int32)
    names = [task.name for task in config.tasks]
    source_N = np.array([names.index(skill) if skill in names else len(names) for skill in skills], np.int32)
    rows = [
        row
        for row in answers_by_source([*names, "other"], source_N, book.answers, answer_N, selected_N)
        if row.source != "other"
    ]
    distance, by_chance = mean_distance(rows)
    part_counts = Counter(part for part, chosen in zip(parts, selected_N, strict=True) if chosen)
    skill_counts = Counter(skill for skill, chosen in zip(skills, selected_N, strict=True) if chosen)
    return {
        "selected": {part: part_counts[part] for part in SHARES},
        "tasks_in_it": {name: skill_counts[name] for name in names},
        "answer_distance": distance,
        "answer_distance_by_chance": by_chance,
    }


def _passes(trained: Path, config: Config) -> dict[str, int]:
    manifest, settings = read_json(trained / "manifest.json"), config.finetune
    full = min(
        manifest["records"] * settings.epochs, manifest["steps"] * settings.batch_size * settings.gradient_accumulation
    )
    return manifest.get("sample_passes") or {"done": full, "full": full, "saved": 0}


@contextmanager
def _logged(root: Path, name: str) -> Iterator[None]:
    """What the stages say goes to root/logs/<name>.log."""
    torch.set_num_threads(1)  # two pieces side by side are faster than one on two threads
    path = root / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield
