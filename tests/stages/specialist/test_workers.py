"""Several devices: chunks shared out, a dead worker's chunk taken again, a mistake named once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from icons.store.lock import only_one_process
from tests.conftest import Project
from tests.reference.selection import read_rows
from tests.warm import Program


def without_training_rows(project: Project) -> Project:
    for folder in (project.run / "train_grads" / "final").glob("chunk-*"):
        for path in folder.iterdir():
            path.unlink()
    return project


def same_rows(project: Project, finished: Project) -> None:
    ours, theirs = (read_rows(each.run / "train_grads" / "final") for each in (project, finished))
    np.testing.assert_allclose(ours["grads"].astype(np.float32), theirs["grads"].astype(np.float32), atol=1e-4)


def test_workers_share_the_chunks_and_end_with_the_same_rows(copy_of_finished: Project, finished: Project) -> None:
    project = without_training_rows(copy_of_finished)
    outcome = project.icons("train-grads", "--set", "gradients.workers=2")
    assert outcome.code == 0, outcome.err
    assert "3 of 3 chunks computed" in outcome.out
    same_rows(project, finished)


def children(process: int) -> list[int]:
    """Worker processes of a process (the resource tracker that Python starts beside them is none)."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in command:
                found.append(int(child))
    return found


def test_a_killed_workers_chunk_is_taken_again(copy_of_finished: Project, finished: Project) -> None:
    project = without_training_rows(copy_of_finished)
    process = Program("-m", "icons", "train-grads", project.config, "--set", "gradients.workers=2")
    process.wait_until(lambda: list((project.run / "train_grads" / "final").glob("chunk-*/manifest.json")) != [])
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    same_rows(project, finished)
    # Whether the killed worker held a chunk at that moment is up to chance; the rows are right either way.
    assert "3 of 3 chunks computed" in out


def test_a_workers_mistake_is_told_at_once_and_ends_the_run(copy_of_finished: Project) -> None:
    project = without_training_rows(copy_of_finished)
    path = project.root / "data" / "train.json"
    records = json.loads(path.read_text())
    records[90]["conversations"] = []
    path.write_text(json.dumps(records))
    project.raw["model"]["adapter"] = "run/warmup/final"
    project.raw["output_dir"] = "again"
    project.save()
    outcome = project.icons("train-grads", "--set", "gradients.workers=2")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "train.json row 90 (id " in outcome.err
    assert "chunk 2: " in outcome.out
    manifests = sorted((project.root / "again" / "train_grads" / "final").glob("*/manifest.json"))
    complete = [json.loads(manifest.read_text())["complete"] for manifest in manifests]
    assert complete[:2] == [True, True]


def test_workers_end_with_a_killed_parent(copy_of_finished: Project) -> None:
    project = without_training_rows(copy_of_finished)
    project.raw["gradients"]["shard_rows"] = 1
    project.save()
    process = Program("-m", "icons", "train-grads", project.config, "--set", "gradients.workers=2")
    process.wait_until(lambda: list((project.run / "train_grads" / "final").glob("chunk-*/manifest.json")) != [])
    workers = children(process.pid)
    assert workers
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 120
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_two_processes_on_one_chunk(copy_of_finished: Project, finished: Project) -> None:
    project = without_training_rows(copy_of_finished)
    folder = project.run / "train_grads" / "final" / "chunk-00000-of-00003"
    with only_one_process(folder):
        outcome = project.icons("train-grads", "--chunk", 0)
    assert outcome.code == 2
    assert f"another process is computing {folder}" in outcome.err
    assert project.icons("train-grads").code == 0
    same_rows(project, finished)
