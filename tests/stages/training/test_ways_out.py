"""What a training leaves when it is stopped, what it takes for done, and which folders it may remove."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import Project
from tests.warm import Program

STEPS = ("--set", "finetune.max_steps=3", "--set", "finetune.batch_size=4", "--set", "finetune.save_steps=1")


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 75, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_a_stopped_training_saves_on_its_way_out(number: int, code: int, name: str, project: Project) -> None:
    """With save_steps beyond the end: the only checkpoint is the one that the signal made."""
    project.raw["warmup"] |= {"max_steps": 30, "save_steps": 1000, "epochs": 20}
    project.save()
    process = Program("-m", "icons", "warmup", project.config)
    log = project.run / "warmup" / "log.jsonl"
    process.wait_until(lambda: log.is_file() and log.read_bytes().count(b"\n") >= 2)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code, err
    assert err.splitlines()[-1] == (f"stopped by {name}; finished work is kept, the same command goes on from there")
    (saved,) = (project.run / "warmup").glob("checkpoint-*")
    reached = int(saved.name.removeprefix("checkpoint-"))
    assert 1 <= reached < 30
    if number == signal.SIGINT:
        return  # the way on is the same
    outcome = project.icons("warmup")
    assert outcome.code == 0, outcome.err
    stopped = load_file(project.run / "warmup" / "final" / "adapter_model.safetensors")
    shutil.rmtree(project.run)
    assert project.icons("warmup").code == 0
    undisturbed = load_file(project.run / "warmup" / "final" / "adapter_model.safetensors")
    for key, tensor in undisturbed.items():
        np.testing.assert_array_equal(stopped[key], tensor)


def test_a_users_folders_stay(copy_of_finished: Project) -> None:
    folder = copy_of_finished.run / "warmup"
    (folder / "checkpoint-best").mkdir()
    (folder / "checkpoint-best" / "notes.txt").write_text("mine")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-2.bak")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-99")
    (folder / "checkpoint-99" / "complete").unlink()
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / ".icons-unfinished").touch()
    for name in ("final", "checkpoint-4"):
        shutil.rmtree(folder / name)
    outcome = copy_of_finished.icons("warmup")
    assert outcome.code == 0, outcome.err
    assert (folder / "checkpoint-best" / "notes.txt").read_text() == "mine"
    assert (folder / "checkpoint-2.bak" / "complete").is_file()
    assert (folder / "checkpoint-99").is_dir()
    assert not (folder / "checkpoint-3").exists()
    assert copy_of_finished.icons("status").code == 0


def test_done_means_that_the_weights_are_there(copy_of_finished: Project) -> None:
    project = copy_of_finished
    command = ("finetune", "--name", "x", "--merge", *STEPS)
    first = project.icons(*command)
    assert first.code == 0, first.err
    folder = project.run / "finetune" / "x"
    weights, merged = folder / "final" / "adapter_model.safetensors", folder / "merged" / "model.safetensors"
    written = {path: path.read_bytes() for path in (weights, merged)}
    for path, damage in [
        (merged, lambda path: path.unlink()),
        (merged, lambda path: path.write_bytes(b"")),
        (weights, lambda path: path.write_bytes(b"")),
        (weights, lambda path: path.unlink()),
    ]:
        damage(path)
        outcome = project.icons(*command)
        assert outcome.code == 0, outcome.err
        assert path.read_bytes() == written[path]
    assert "already done" in project.icons(*command).out
    assert json.loads((folder / "manifest.json").read_text())["complete"]


def test_an_evaluation_is_of_a_whole_adapter(copy_of_finished: Project) -> None:
    project = copy_of_finished
    assert project.icons("finetune", "--name", "x", *STEPS).code == 0
    path = project.run / "finetune" / "x" / "final" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    outcome = project.icons("evaluate", "--of", "x")
    assert outcome.code == 2
    assert f"{path} is damaged" in outcome.err
    assert not Path(project.run / "evaluation" / "x").exists()
