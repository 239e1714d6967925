"""`icons trial`: the same count and steps for every method, what is kept, and what it advises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from icons.evaluation.measures import Interval
from icons.stages.generalist.trial import Verdict, advice
from tests.conftest import Project


def test_every_method_gets_as_many_records_and_steps(copy_of_finished: Project) -> None:
    options = ["--methods", "vote,proportional", "--percent", 16, "--seeds", 2, "--steps", 3]
    outcome = copy_of_finished.icons("trial", *options, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out[outcome.out.index("{\n") :])
    assert {row["method"]: row["records"] for row in result["methods"]} == {
        "vote": 16,
        "proportional": 16,
        "random": 16,
    }
    assert result["steps"] == 1  # 16 records are one step of an epoch
    arms = sorted(path.name for path in (copy_of_finished.run / "trial").iterdir() if path.is_dir())
    assert [arm.rsplit("-", 1)[0] for arm in arms] == [
        f"{method}-16-seed{seed}" for method in ("proportional", "random", "vote") for seed in (0, 1)
    ]
    assert not list(copy_of_finished.run.glob("trial/*/checkpoint-*"))
    assert not (copy_of_finished.run / "selection" / "proportional-16").exists()  # nothing is left among the selections
    again = copy_of_finished.icons("trial", *options)
    assert "written to" not in again.out
    assert "16 of 100 records each, 1 steps, 2 seeds" in again.out
    assert "too few to trust" in again.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--percent", 1], "1% of 100 records is 1"),
        (["--methods", "vot"], "'vot' is none of"),
        (["--by", "f1"], "expected one of loss, token_accuracy, exact"),
    ],
)
def test_what_cannot_be_tried_is_said_in_one_line(options: list[object], said: str, finished: Project) -> None:
    outcome = finished.icons("trial", *options)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def verdict(method: str, mean: float, low: float, high: float) -> Verdict:
    return Verdict(method, 10, Interval(0.5, 0.4, 0.6), Interval(mean, low, high), 1.0)


def test_the_advice_is_plain() -> None:
    random = Verdict("random", 10, Interval(0.5, 0.4, 0.6), None, 1.0)
    lines = advice([verdict("a", 0.08, 0.03, 0.12), random, verdict("b", 0.01, -0.02, 0.03)], "exact")
    assert lines == [
        "Use a: it beats a random draw here, by +8.0 points [+3.0, +12.0].",
        "b is no better than a random draw (+1.0 points [-2.0, +3.0]).",
    ]
    worse = advice([random, verdict("c", -0.1, -0.2, -0.05)], "exact")
    assert worse[0].startswith("No method here is surely ahead of a random draw")
    assert "c is WORSE than a random draw" in worse[1]


def test_a_method_that_takes_the_useful_rows_is_found(tmp_path: Path, copy_of_finished: Project) -> None:
    """A plugin that selects by what the questions are about beats one that selects what nobody asks."""
    records = json.loads((copy_of_finished.root / "data" / "train.json").read_text())
    useful = [int(record["source"] in ("colour", "digit")) for record in records]
    (copy_of_finished.root / "own.py").write_text(
        "import numpy as np\nfrom icons.selection.registry import method\n"
        f"@method('right')\ndef right(e): return np.array({useful}) + e.losses / 100\n"
        f"@method('beside')\ndef beside(e): return -np.array({useful}) + e.losses / 100\n"
    )
    tasks = [t for t in copy_of_finished.raw["tasks"] if t["name"] in ("colour", "digit")]
    copy_of_finished.raw["evaluation"] = {"tasks": [dict(task, group=None) for task in tasks]}
    copy_of_finished.raw["finetune"] = {"epochs": 8, "learning_rate": 6.0e-3, "batch_size": 8}
    copy_of_finished.save()
    outcome = copy_of_finished.icons(
        "trial", "--set", "selection.plugin=own.py", "--methods", "right,beside", "--percent", 24, "--seeds", 2,
        "--by", "loss", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out[outcome.out.index("{\n") :])
    leads = {row["method"]: row["lead_over_random"] for row in result["methods"]}
    assert leads["right"]["mean"] > leads["beside"]["mean"]
    assert [row["method"] for row in result["methods"]].index("right") == 0
    assert np.isfinite([row["value"]["mean"] for row in result["methods"]]).all()
