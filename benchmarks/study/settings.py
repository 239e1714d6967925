"""What the study is made in: questions about drawn pictures with a small LLaVA, or in words with a pretrained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.data import PICTURES, Questions, draw_start_data
from study.model import make_start
from study.pretrained import fetch_smollm2
from study.text_data import TEXT

START_SEED = 1000  # of the records that the start is trained on; the seeds of the study are small numbers


@dataclass(frozen=True)
class Size:
    """Records, steps and epochs; `validation` and `test` count the records of each task."""

    train: int
    validation: int
    test: int
    epochs: int
    seeds: int
    start_records: int = 0
    tower_steps: int = 0
    start_steps: int = 0
    dim: int = 5120


@dataclass(frozen=True)
class Setting:
    """The questions, where every training starts (`make_start(folder, size)`), and the config's own keys."""

    questions: Questions
    make_start: Callable[[Path, Size], None]
    keys: Mapping[str, Any]
    sizes: Mapping[str, Size]


def _picture_start(folder: Path, size: Size) -> None:
    if folder.is_dir():
        return
    data, images = draw_start_data(folder.with_name("start-data"), count=size.start_records, seed=START_SEED)
    make_start(
        folder,
        data,
        images,
        rows=size.start_records,
        tower_steps=size.tower_steps,
        steps=size.start_steps,
        seed=START_SEED,
    )


SETTINGS = {
    "pictures": Setting(
        PICTURES,
        _picture_start,
        {
            "model": {"lora": {"r": 16, "alpha": 32, "dropout": 0.0}},
            "rates": {"learning_rate": 1.0e-3, "projector_learning_rate": 1.0e-3},
            "batch_size": 32,
        },
        {
            "full": Size(10_000, 300, 400, epochs=6, seeds=3, start_records=24_000, tower_steps=1500, start_steps=3000),
            "quick": Size(1_500, 60, 100, epochs=4, seeds=1, start_records=6_000, tower_steps=400, start_steps=400),
            "tiny": Size(60, 4, 4, epochs=1, seeds=1, start_records=60, tower_steps=2, start_steps=2, dim=256),
        },
    ),
    "text": Setting(
        TEXT,
        lambda folder, size: fetch_smollm2(folder),
        {
            "model": {"template": "chat_template", "lora": {"r": 8, "alpha": 16, "dropout": 0.0}},
            "rates": {"learning_rate": 5.0e-4, "projector_learning_rate": None},
            "batch_size": 8,
        },
        {
            "full": Size(1_200, 40, 80, epochs=3, seeds=3),
            "quick": Size(300, 10, 20, epochs=2, seeds=1),
            "tiny": Size(40, 2, 2, epochs=1, seeds=1, dim=256),
        },
    ),
}
