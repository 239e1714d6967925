"""The study's data are what they say, and its table is the arithmetic of its results."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from study.data import SHARES, TASKS, draw_study_data
from study.jobs import Arm, arms_of, result
from study.proportion import in_proportion, skew
from study.table import plot, summary, table


def test_the_parts_have_their_shares_and_draws_repeat(tmp_path: Path) -> None:
    drawn = draw_study_data(tmp_path / "a", train=400, validation=2, test=3, seed=5)
    again = draw_study_data(tmp_path / "b", train=400, validation=2, test=3, seed=5)
    assert drawn.train.read_bytes() == again.train.read_bytes()
    records = json.loads(drawn.train.read_text())
    parts = Counter(record["source"].partition("-")[0] for record in records)
    assert parts == {part: round(share * 400) for part, share in SHARES.items()}
    texts = Counter(json.dumps([r.get("image"), r["conversations"]]) for r in records if "redundant" in r["source"])
    assert set(texts.values()) == {8}
    assert all((drawn.images / record["image"]).is_file() for record in records if "image" in record)
    assert [len(json.loads(drawn.tests[task].read_text())) for task in TASKS] == [3] * 6
    skills = {record["source"].partition("-")[2] for record in records if "irrelevant" in record["source"]}
    assert not skills & set(TASKS)


def test_a_wrong_answer_is_of_the_same_kind(tmp_path: Path) -> None:
    drawn = draw_study_data(tmp_path, train=400, validation=1, test=1, seed=0)
    for record in json.loads(drawn.train.read_text()):
        if record["source"] == "wrong-digit":
            assert all(turn["value"] in "0123456789" for turn in record["conversations"] if turn["from"] == "gpt")


def test_the_vote_within_each_answer_takes_as_many_of_each(tmp_path: Path) -> None:
    records = [
        {
            "source": f"useful-{skill}",
            "image": "a.png",
            "conversations": [
                {"from": "human", "value": "?"},
                {"from": "gpt", "value": "Left" if row % 4 else "Right"},
            ],
        }
        for skill in ("left_right", "digit")
        for row in range(80)
    ]
    train, scores, target = tmp_path / "train.json", tmp_path / "scores.safetensors", tmp_path / "chosen.json"
    train.write_text(json.dumps(records))
    best = np.array([r["conversations"][1]["value"] == "Right" for r in records]) + np.arange(160) / 1000
    table = {"scores": np.stack([best, best], axis=1).astype(np.float32), "valid": np.ones(160, dtype=np.uint8)}
    save_file(table, scores)
    in_proportion(scores, train, target, 20)
    chosen = json.loads(target.read_text())
    assert len(chosen) == 32
    assert chosen == [*_last(0, 12), *_last(80, 12)]
    assert skew(train, chosen) == 0
    assert skew(train, [row for row in range(160) if row % 4 == 0]) == pytest.approx(0.75)


def _last(first: int, count: int) -> list[int]:
    """Of 80 rows from `first` on, the last `count` of the 60 with one answer, the last 4 of the 20 with the other."""
    rows = range(first, first + 80)
    return sorted([*[r for r in rows if r % 4][-count:], *[r for r in rows if r % 4 == 0][-4:]])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two seeds: everything answers 80% of every task, arm number n (80 - n)%, a second seed one point less."""
    for seed in range(2):
        folder = tmp_path / "results" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "start.json").write_text(json.dumps({"accuracy": dict.fromkeys(TASKS, 0.4)}))
        for number, arm in enumerate(arms_of(seed)):
            found: dict[str, Any] = {
                "accuracy": dict.fromkeys(TASKS, 0.8 - number / 100 - (seed / 100 if number else 0)),
                "selected": dict.fromkeys(SHARES, 50),
                "answer_skew": 0.25,
                "sample_passes": {"done": 90, "full": 100, "saved": 10},
                "seconds": 1.0,
            }
            (folder / f"{arm.file}.json").write_text(json.dumps(found))
    return tmp_path


def test_the_relative_score_is_the_mean_over_tasks_of_score_by_full_score(results: Path) -> None:
    found = summary(results, 2)
    assert found["seeds"] == [0, 1]
    assert found["arms"]["everything"]["mean"] == 100
    assert found["arms"]["start, untrained"]["mean"] == 50
    vote = found["arms"]["vote"]
    assert vote["relative"] == [98.75, 97.5]
    assert vote["deviation"] == pytest.approx(0.88)
    assert found["arms"]["random"]["relative"] == [97.5, 96.25]
    assert len(found["arms"]["vote 40%"]["relative"]) == 1
    assert table(found).count("\n") == len(found["arms"]) + 1
    assert plot(found).startswith(b"\x89PNG")


def test_a_seed_that_is_not_finished_is_left_out(results: Path) -> None:
    (results / "results" / "seed-1" / "mean.json").unlink()
    assert result(results, 1, Arm("mean")) is None
    assert summary(results, 2)["seeds"] == [0]
