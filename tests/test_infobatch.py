"""InfoBatch: what it leaves out, that its gradient has no bias, kills, several processes, and what it reports."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from icons.store.files import read_tensors
from icons.training.infobatch import InfoBatch
from tests.conftest import Project
from tests.test_finetune import ROWS, finetuned

EPOCHS, RECORDS, STEP = 4, 45, 8
PRUNING = ["--set", "training.pruning=infobatch", "--set", "training.ratio=0.6"]


@pytest.fixture
def tuning(project: Project) -> Project:
    """45 rows in steps of 8, the last of 5; four epochs, of which the second and the third are pruned."""
    project.raw["model"]["lora"]["dropout"] = 0.0
    project.raw["finetune"] = {"epochs": EPOCHS, "batch_size": STEP, "learning_rate": 1.0e-3, "save_steps": 3}
    project.save()
    (project.root / "rows.json").write_text(json.dumps(ROWS[:RECORDS]))
    return project


def tune(project: Project, *options: object) -> str:
    outcome = project.icons("finetune", "--indices", project.root / "rows.json", *options)
    assert outcome.code == 0, outcome.err
    return outcome.out


def state(project: Project, name: str, step: int) -> dict[str, Any]:
    return read_tensors(finetuned(project, name) / f"checkpoint-{step}" / "infobatch.safetensors")


@pytest.mark.parametrize(
    ("epochs", "delta", "pruned"),
    [
        (1, 0.875, []),
        (2, 0.875, []),
        (2, 1.0, []),
        (3, 0.875, [1]),
        (8, 0.875, [1, 2, 3, 4, 5, 6]),
        (8, 0.5, [1, 2, 3]),
        (4, 1.0, [1, 2]),
        (10, 0.05, []),
        (100, 0.29, list(range(1, 29))),
    ],
)
def test_the_first_and_the_last_epochs_are_whole(epochs: int, delta: float, pruned: list[int]) -> None:
    assert list(InfoBatch(0.5, delta).pruned_epochs(epochs)) == pruned


def test_only_the_well_learned_are_left_out_and_the_others_of_them_count_for_more() -> None:
    lottery = random.Random(0)
    scores = [lottery.uniform(0, 3) for _ in range(4000)]
    for row in range(0, 4000, 10):
        scores[row] = float("nan")
    known = [score for score in scores if score == score]
    mean = sum(known) / len(known)
    weights = InfoBatch(0.3, 0.875).weights(np.array(scores, np.float32), epoch=3, seed=7).tolist()
    dropped = 0
    for score, weight in zip(scores, weights, strict=True):
        if score != score or score >= mean:
            assert weight == 1
        else:
            assert weight == 0 or weight == pytest.approx(1 / 0.7)
            dropped += weight == 0
    well_learned = sum(score < mean for score in known)
    assert 0.25 < dropped / well_learned < 0.35
    again = InfoBatch(0.3, 0.875).weights(np.array(scores, np.float32), epoch=3, seed=7).tolist()
    others = [
        InfoBatch(0.3, 0.875).weights(np.array(scores, np.float32), *which).tolist() for which in ((3, 8), (4, 7))
    ]
    assert again == weights
    assert weights not in others
    assert others[0] != others[1]


def test_without_scores_or_below_no_mean_all_are_kept() -> None:
    for scores in (np.full(9, np.nan, np.float32), np.full(9, 2, np.float32), np.zeros(0, np.float32)):
        assert (InfoBatch(0.9, 0.875).weights(scores, 1, 0) == 1).all()
