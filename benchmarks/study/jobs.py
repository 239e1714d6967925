"""The study's pieces of work, each of which leaves a file and is not done again."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from icons.config import Config
from icons.config_file import load_config
from icons.pipeline import run
from icons.stages.generalist.generalist import generalist
from icons.stages.training.finetune import choose, finetune, read_indices
from icons.store.files import read_json, write_json
from icons.store.layout import RunFolder
from study.data import SHARES, TASKS, draw_start_data, draw_study_data
from study.model import accuracy, make_start
from study.proportion import in_proportion, skew

START_SEED = 1000  # of the records that the start is trained on; the seeds of the study are small numbers


@dataclass(frozen=True)
class Size:
    """Records of each kind, steps and epochs; `test` and `validation` count the records of each task."""

    train: int
    validation: int
    test: int
    start_records: int
    tower_steps: int
    start_steps: int
    epochs: int
    seeds: int


FULL = Size(
    train=10_000,
    validation=300,
    test=400,
    start_records=24_000,
    tower_steps=1500,
    start_steps=3000,
    epochs=6,
    seeds=3,
)
QUICK = Size(
    train=1_500,
    validation=60,
    test=100,
    start_records=6_000,
    tower_steps=400,
    start_steps=400,
    epochs=4,
    seeds=1,
)


@dataclass(frozen=True)
class Arm:
    """What is trained on: by `method` so many percent (None: everything), with exact influence, with InfoBatch.

    `in_proportion` takes as many of each answer as there are in the data (proportion.py).
    """

    name: str
    method: str | None = None
    percent: int = 100
    exact: bool = False
    infobatch: bool = False
    in_proportion: bool = False
    every_seed: bool = True

    @property
    def file(self) -> str:
        return re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")


ABLATIONS = ("mean", "max", "rank", "norm", "direct-merge")
RATIOS = (5, 10, 40, 60)
ARMS = (
    Arm("everything"),
    Arm("vote", "vote", 20),
    Arm("random", "random", 20),
    Arm("vote, exact influence", "vote", 20, exact=True),
    *(Arm(method, method, 20) for method in (*ABLATIONS, "spice", "loss", "grad-norm")),
    Arm("vote within each answer", "vote", 20, in_proportion=True),
    Arm("everything, InfoBatch", infobatch=True),
    *(Arm(f"vote {percent}%", "vote", percent, every_seed=False) for percent in RATIOS),
)


def arms_of(seed: int) -> list[Arm]:
    """Other ratios are tried on the first seed alone."""
    return [arm for arm in ARMS if arm.every_seed or seed == 0]


def start(root: Path, size: Size) -> None:
    """The model that every training of every seed begins with: root/start."""
    if (root / "start").is_dir():
        return
    with _logged(root, "start"):
        data, images = draw_start_data(root / "start-data", count=size.start_records, seed=START_SEED)
        make_start(
            root / "start",
            data,
            images,
            rows=size.start_records,
            tower_steps=size.tower_steps,
            steps=size.start_steps,
            seed=START_SEED,
        )


def prepare(root: Path, size: Size, seed: int) -> None:
    """A seed's data, gradients, scores and selections, sketched and exact."""
    with _logged(root, f"seed-{seed}"):
        for arm in arms_of(seed):
            if arm.method == "vote" and arm.percent == 20:
                run(_config(root, size, seed, arm))
        for arm in arms_of(seed):
            if arm.method is not None:
                generalist(_config(root, size, seed, arm))


def train(root: Path, size: Size, seed: int, arm: Arm) -> None:
    """Leaves root/results/seed-<seed>/<arm>.json: accuracy per task, what was selected, how skewed its
    answers are (proportion.py), sample-passes, seconds."""
    target = _result(root, seed, arm)
    if target.is_file():
        return
    begin = time.monotonic()
    with _logged(root, f"seed-{seed}"):
        config = _config(root, size, seed, arm)
        folder = RunFolder(config.output_dir)
        indices = selection_of(config, arm)
        data = root / f"seed-{seed}" / "data"
        if indices and arm.in_proportion:
            in_proportion(folder.scores, data / "train.json", indices, arm.percent)
        finetune(config, choose(config, indices, arm.method is None, None), arm.file)
        trained = folder.finetune(arm.file)
        tests = {task: data / "test" / f"{task}.json" for task in TASKS}
        found: dict[str, Any] = {
            "accuracy": accuracy(root / "start", trained / "final", tests, data / "images"),
            "selected": _parts(data / "train.json", indices),
            "answer_skew": 0.0 if indices is None else skew(data / "train.json", read_indices(indices)[0]),
            "sample_passes": _passes(trained, size.epochs),
        }
        for path in trained.glob("checkpoint-*"):
            shutil.rmtree(path)
    write_json(target, found | {"seconds": round(time.monotonic() - begin, 1)})


def at_start(root: Path, size: Size, seed: int) -> None:
    """What the start answers before any training, as a result of its own."""
    target = root / "results" / f"seed-{seed}" / "start.json"
    if target.is_file():
        return
    with _logged(root, f"seed-{seed}"):
        data = root / f"seed-{seed}" / "data"
        tests = {task: data / "test" / f"{task}.json" for task in TASKS}
        write_json(target, {"accuracy": accuracy(root / "start", None, tests, data / "images")})


def result(root: Path, seed: int, arm: Arm) -> dict[str, Any] | None:
    path = _result(root, seed, arm)
    found: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return found


def selection_of(config: Config, arm: Arm) -> Path | None:
    """The file of what the arm trains on; None for everything."""
    folder = RunFolder(config.output_dir)
    if arm.in_proportion:
        return folder.root / f"{arm.file}.json"
    return None if arm.method is None else folder.selection(config.selection.name) / "selected_indices.json"


def _result(root: Path, seed: int, arm: Arm) -> Path:
    return root / "results" / f"seed-{seed}" / f"{arm.file}.json"


def _config(root: Path, size: Size, seed: int, arm: Arm) -> Config:
    """The seed's config with the arm's selection and pruning; draws the data where it is not yet."""
    folder = root / f"seed-{seed}"
    drawn = folder / "data"
    if not (drawn / "train.json").is_file():  # written last
        draw_study_data(drawn, train=size.train, validation=size.validation, test=size.test, seed=seed)
    images, lora = "data/images", {"r": 16, "alpha": 32, "dropout": 0.0}
    rates = {"learning_rate": 1.0e-3, "projector_learning_rate": 1.0e-3, "seed": seed}
    raw: dict[str, Any] = {
        "output_dir": "run-exact" if arm.exact else "run",
        "model": {"base": "../start", "dtype": "float32", "device": "cpu", "lora": lora},
        "train": {"data": "data/train.json", "images": images},
        "warmup": {"fraction": 0.2, "epochs": 2, **rates},
        "finetune": {"epochs": size.epochs, "save_steps": 10_000, "batch_size": 32, **rates},
        "tasks": [{"name": task, "data": f"data/validation/{task}.json", "images": images} for task in TASKS],
        "gradients": {"dim": 5120, "seed": seed},
        "influence": {"save_matrix": False},
        "selection": {"method": arm.method or "vote", "percent": arm.percent, "seed": seed},
    }
    if arm.exact:  # from the same warm-up
        raw["model"]["adapter"] = "run/warmup/final"
        raw["gradients"]["projection"] = "none"
    if arm.infobatch:
        raw["training"] = {"pruning": "infobatch"}
    path = folder / f"{arm.file}.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return load_config(path)


def _parts(train: Path, indices: Path | None) -> dict[str, int]:
    """Records of each part of the data among the selected."""
    records = json.loads(train.read_text())
    rows = range(len(records)) if indices is None else read_indices(indices)[0]
    counts = Counter(records[row]["source"].partition("-")[0] for row in rows)
    return {part: counts[part] for part in SHARES}


def _passes(trained: Path, epochs: int) -> dict[str, int]:
    manifest = read_json(trained / "manifest.json")
    full = manifest["records"] * epochs
    return manifest.get("sample_passes") or {"done": full, "full": full, "saved": 0}


@contextmanager
def _logged(root: Path, name: str) -> Iterator[None]:
    """What the stages say goes to root/logs/<name>.log."""
    torch.set_num_threads(1)  # two pieces side by side are faster than one on two threads
    path = root / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield
