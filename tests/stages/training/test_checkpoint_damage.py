"""Damage to what a warm-up leaves: every file is told apart, and the advice leads back to the same selection."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.reference.selection import read_selection

TWO = ("--set", "gradients.checkpoints=[2,final]")


def refused(project: Project, *options: object) -> str:
    outcome = project.icons("run", *options)
    assert outcome.code == 2, outcome.out + outcome.err
    assert len(outcome.err.splitlines()) == 1
    return outcome.err


def test_an_earlier_checkpoint_comes_back_by_the_advice(copy_of_finished: Project) -> None:
    project = copy_of_finished
    assert project.icons("run", *TWO).code == 0
    wanted = read_selection(project.run)
    settings = project.run / "warmup" / "checkpoint-2" / "adapter_config.json"
    settings.write_bytes(settings.read_bytes().replace(b'"r": 4', b'"r": 5'))
    message = refused(project, *TWO)
    assert str(settings) in message
    shutil.rmtree(message.split("; delete ")[1].split(" ")[0])
    assert "`icons warmup`" in message
    assert project.icons("warmup", *TWO).code == 0
    assert project.icons("run", *TWO).code == 0
    assert read_selection(project.run) == wanted


def test_a_changed_learning_rate_does_not_change_the_weights(copy_of_finished: Project) -> None:
    project = copy_of_finished
    assert project.icons("run", *TWO).code == 0
    state = project.run / "warmup" / "checkpoint-2" / "trainer_state.json"
    raw = json.loads(state.read_bytes())
    for entry in raw["log_history"]:
        entry["learning_rate"] = 9.0
    state.write_text(json.dumps(raw))
    assert str(state) in refused(project, *TWO)


@pytest.mark.parametrize("source", ["selection/vote-20/selected_indices.json", "warmup/final/complete"])
def test_another_sealed_file_as_the_manifest_is_refused(source: str, copy_of_finished: Project) -> None:
    run = copy_of_finished.run
    shutil.copyfile(run / source, run / "warmup" / "manifest.json")
    assert f"delete {run / 'warmup'}" in refused(copy_of_finished)


def test_a_foreign_seal_does_not_vouch_for_an_adapter(copy_of_finished: Project) -> None:
    """The stages refuse it; the warm-up makes it again of its newest checkpoint."""
    run = copy_of_finished.run
    weights = run / "warmup" / "final" / "adapter_model.safetensors"
    written = weights.read_bytes()
    weights.write_bytes(written[:-1] + b"x")
    shutil.copyfile(run / "selection" / "vote-20" / "selected_indices.json", run / "warmup" / "final" / "complete")
    outcome = copy_of_finished.icons("val-grads")
    assert outcome.code == 2
    assert f"delete {run / 'warmup' / 'final'}" in outcome.err
    assert copy_of_finished.icons("run").code == 0
    assert weights.read_bytes() == written


@pytest.mark.parametrize("line", [b'{"stex": 1}\n', b"[]\n", b'{"step": 1, "loss": "x", "learning_rate": 0.1}\n'])
def test_a_damaged_log_stops_no_training(line: bytes, copy_of_finished: Project, finished: Project) -> None:
    warmup: Path = copy_of_finished.run / "warmup"
    for name in ("final", "checkpoint-4"):
        shutil.rmtree(warmup / name)
    (warmup / "log.jsonl").write_bytes(line)
    assert copy_of_finished.icons("run").code == 0
    assert read_selection(copy_of_finished.run) == read_selection(finished.run)
