"""The study's data are what they say, its pieces run, and its table is the arithmetic of its results."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.vision_models import text_llama
from tests.warm import ran

sys.path.insert(0, str(ROOT / "benchmarks"))

from study.data import PICTURES, SHARES, draw_study_data
from study.jobs import Study, result
from study.settings import SETTINGS
from study.table import plot, summary, table
from study.text_data import TEXT


@pytest.mark.parametrize("questions", [PICTURES, TEXT])
def test_the_parts_have_their_shares_and_draws_repeat(questions: Any, tmp_path: Path) -> None:
    drawn = draw_study_data(tmp_path / "a", questions, train=400, validation=2, test=3, seed=5)
    again = draw_study_data(tmp_path / "b", questions, train=400, validation=2, test=3, seed=5)
    assert drawn.train.read_bytes() == again.train.read_bytes()
    records = json.loads(drawn.train.read_text())
    parts = Counter(record["source"].partition("-")[0] for record in records)
    assert parts == {part: round(share * 400) for part, share in SHARES.items()}
    copies = [json.dumps([r.get("image"), r["conversations"]]) for r in records if "redundant" in r["source"]]
    assert all(count % 8 == 0 for count in Counter(copies).values())
    assert all((drawn.images / record["image"]).is_file() for record in records if "image" in record)
    assert [len(json.loads(drawn.tests[task].read_text())) for task in questions.tasks] == [3] * 6
    skills = {record["source"].partition("-")[2] for record in records if "irrelevant" in record["source"]}
    assert not skills & set(questions.tasks)


def test_a_wrong_answer_is_of_the_same_kind(tmp_path: Path) -> None:
    drawn = draw_study_data(tmp_path, PICTURES, train=400, validation=1, test=1, seed=0)
    for record in json.loads(drawn.train.read_text()):
        if record["source"] == "wrong-digit":
            assert all(turn["value"] in "0123456789" for turn in record["conversations"] if turn["from"] == "gpt")


def run_study(folder: Path, *options: str) -> dict[str, Any]:
    numbers = folder.parent / "numbers.json"
    ran(
        ROOT / "benchmarks" / "study", "--folder", folder, "--size", "tiny", "--arms", "core,steps", "--workers", 1,
        "--json", numbers, "--plot", folder / "plot.png", *options,
    )  # fmt: skip
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    content: dict[str, Any] = json.loads(numbers.read_text())
    return content


def test_the_study_of_pictures_in_its_smallest_form(tmp_path: Path) -> None:
    numbers = run_study(tmp_path / "study")
    arms = numbers["results"]["arms"]
    assert arms.keys() == {
        "start, untrained", "everything", "random", "random, second draw", "vote", "proportional", "coverage",
        "everything, the steps of 20%",
    }  # fmt: skip
    assert sum(arms["proportional"]["selected"].values()) == 12
    assert arms["everything"]["sample_passes"] == {"done": 60, "full": 60, "saved": 0}
    assert arms["everything, the steps of 20%"]["sample_passes"] == {"done": 32, "full": 32, "saved": 0}
    assert "--size tiny --arms core,steps" in numbers["command"]


def test_the_study_in_words_takes_the_model_that_is_there(tmp_path: Path) -> None:
    text_llama(tmp_path / "study" / "start")
    numbers = run_study(tmp_path / "study", "--setting", "text")
    assert numbers["results"]["arms"]["vote"]["selected"].keys() == SHARES.keys()


@pytest.fixture
def finished(tmp_path: Path) -> Study:
    """Two seeds: everything answers 80% of every task, arm number n (80 - n)%, a second seed one point less."""
    study = Study(tmp_path, "pictures", SETTINGS["pictures"].sizes["full"], ("core", "sizes"))
    for seed in range(2):
        folder = tmp_path / "results" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "start.json").write_text(json.dumps(scored(0.4)))
        for number, arm in enumerate(study.arms):
            content = scored(0.8 - number / 100 - (seed / 100 if number else 0)) | {
                "selected": dict.fromkeys(SHARES, 50),
                "tasks_in_it": dict.fromkeys(PICTURES.tasks, 30),
                "answer_distance": 0.25,
                "answer_distance_by_chance": 0.05,
                "sample_passes": {"done": 90, "full": 100, "saved": 10},
                "seconds": 1.0,
            }
            (folder / f"{arm.file}.json").write_text(json.dumps(content))
    return study


def scored(share: float) -> dict[str, Any]:
    mean = {"mean": share, "low": share, "high": share}
    return {measure: {"tasks": dict.fromkeys(PICTURES.tasks, share), "mean": mean} for measure in ("exact", "loss")}


def test_the_relative_score_is_the_mean_over_tasks_of_score_by_full_score(finished: Study) -> None:
    numbers = summary(finished)
    assert numbers["seeds"] == [0, 1]
    assert numbers["arms"]["everything"]["mean"] == 100
    assert numbers["arms"]["start, untrained"]["mean"] == 50
    random = numbers["arms"]["random"]
    assert random["relative"] == [98.75, 97.5]
    assert random["deviation"] == pytest.approx(0.88)
    assert table(numbers).count("\n") == len(numbers["arms"]) + 1
    assert plot(numbers).startswith(b"\x89PNG")


def test_a_seed_that_is_not_finished_is_left_out(finished: Study) -> None:
    (finished.root / "results" / "seed-1" / "vote.json").unlink()
    assert result(finished, 1, next(arm for arm in finished.arms if arm.name == "vote")) is None
    assert summary(finished)["seeds"] == [0]
