"""`icons run` says what it will do and opens every file before the first stage; --dry-run stops there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Project


def test_a_dry_run_says_the_plan_and_leaves_nothing(finished: Project, tmp_path: Path) -> None:
    project = Project(finished.root, finished.raw)
    outcome = project.icons("run", "--dry-run", "--set", f"output_dir={tmp_path / 'new'}")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "new").exists()
    lines = outcome.out.splitlines()
    assert lines[0].startswith(
        f"plan: {tmp_path / 'new'}, on cpu, float32, weights of 5 MB, 19,520 LoRA parameters, 2,"
    )
    assert lines[1].split(maxsplit=2) == ["1", "warmup", "4 steps of 8 records"]
    assert "100 records (JSON list, llava) in 3 chunks" in lines[3]
    assert "20% by vote, as vote-20" in lines[6]
    assert lines[8].startswith("  disk: ")
    assert "! the warm-up has 4 steps (30 of 100 records, 8 a step)" in lines[9]


def test_the_plan_says_how_much_of_the_lora_counts(finished: Project, tmp_path: Path) -> None:
    new = ["--set", f"output_dir={tmp_path / 'new'}", "--set", "gradients.layers=last-1"]
    said = "19,520 LoRA parameters, gradients of 9,760 of them (the last 1 of 2 layers), 2,048 tokens"
    outcome = finished.icons("run", "--dry-run", *new)
    assert said in outcome.out, outcome.err
    outcome = finished.icons("run", "--dry-run", *new, "--set", f"model.adapter={finished.run / 'warmup' / 'final'}")
    assert said in outcome.out, outcome.err


def test_a_run_counts_its_stages(finished: Project) -> None:
    out = finished.icons("run").out
    stages = [line for line in out.splitlines() if line.startswith("stage ")]
    assert [line.split(": ")[1] for line in stages] == [
        "warmup", "val-grads", "train-grads", "merge", "specialist", "generalist", "report",
    ]  # fmt: skip
    assert stages[2].startswith("stage 3 of 7")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluation": {"tasks": [{"name": "late", "data": "empty.json"}]}}, "empty.json: holds no records"),
        ({"tasks": [{"name": "one", "data": "empty.json"}]}, "empty.json: holds no records"),
        ({"selection": {"plugin": "empty.py", "method": "mine"}}, "mine"),
        ({"model": {"base": "empty"}}, "empty"),
        ({"gradients": {"dim": 30000}}, "gradients.dim 30000 exceeds the 19520 LoRA parameters"),
        (
            {"gradients": {"dim": 15000, "layers": "last-1"}},
            "gradients.dim 15000 exceeds the 9760 LoRA parameters of the last 1 of 2 layers",
        ),
        ({"gradients": {"layers": "last-3"}}, "gradients.layers last-3: the model has 2 decoder layers"),
        ({"gradients": {"layers": "last-0"}}, "'last-0' is neither 'all' nor 'last-N', such as last-8"),
        ({"gradients": {"layers": "3"}}, "'3' is neither 'all' nor 'last-N', such as last-8"),
    ],
)
def test_what_would_stop_a_late_stage_is_told_before_the_warm_up(
    change: dict[str, object], said: str, finished: Project, tmp_path: Path
) -> None:
    raw = json.loads(json.dumps(finished.raw))
    for key, value in change.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) and key in raw else value  # type: ignore[dict-item]
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").symlink_to(finished.root / "data")
    project = Project(tmp_path, raw)
    project.save()
    outcome = project.icons("run")
    assert outcome.code == 2
    assert said in outcome.err
    assert not (project.run / "warmup").exists()
