"""Whole runs on a real Slurm through scripts/submit.sh: what fails, is preempted or killed costs one shard at most."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from icons.demo.drawing import draw_vqa_set
from tests.conftest import ROOT, Project, project_config
from tests.slurm.cluster import Cluster

SCRIPTS = ROOT / "scripts"


@pytest.fixture
def cluster(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # the last bit depends on it
    return slurm


def submit(cluster: Cluster, project: Project, *options: str) -> str:
    return cluster.run("bash", SCRIPTS / "submit.sh", project.config, *options)


def forget(project: Project, *folders: str) -> None:
    for folder in folders:
        shutil.rmtree(project.run / folder)


def numbers(project: Project, state: str) -> list[int]:
    pieces: list[dict[str, Any]] = json.loads(project.icons("status", "--json").out)["pieces"]
    return [p["number"] for p in pieces if p["stage"] == "train-grads" and p["state"] == state]


def finished_shards(folder: Path) -> int:
    manifest = folder / "manifest.json"
    return len(json.loads(manifest.read_text())["shards"]) if manifest.is_file() else 0


def assert_same_files(project: Project, reference: Project) -> None:
    """All rows, votes and the selection byte for byte, the scores by value (their file's metadata has no order)."""
    np.testing.assert_equal(
        *(load_file(each.run / "influence" / "scores.safetensors") for each in (project, reference))
    )
    for where in ("train_grads", "val_grads", "selection"):
        theirs = sorted(path for path in (reference.run / where).rglob("*") if path.suffix == ".safetensors")
        assert theirs
        for path in [*theirs, *(reference.run / where).rglob("selected_*.json")]:
            own = project.run / path.relative_to(reference.run)
            assert own.read_bytes() == path.read_bytes(), own


def test_a_failed_task_and_an_array_beyond_the_limit(
    cluster: Cluster, copy_of_finished: Project, finished: Project
) -> None:
    project = copy_of_finished
    forget(project, "train_grads", "influence", "selection")
    records = json.loads((project.root / "data" / "train.json").read_text())
    row = next(row for row in range(99, 66, -1) if "image" in records[row])
    image = project.root / "data" / "images" / records[row]["image"]
    good = image.read_bytes()
    image.write_bytes(b"not an image")
    shown_before = {record.get("image") for record in records[:67]}
    assert records[row]["image"] not in shown_before, "the image must be of the last chunk alone"

    said = submit(cluster, project)
    assert "train-grads final        job" in said
    names = {name.partition("@")[0] for _, name, _ in cluster.queue()}
    assert names == {"train-grads:final", "train-grads:final+2", "merge", "specialist", "generalist"}
    assert "nothing to submit: the rest is in the queue" in submit(cluster, project)
    cluster.wait_until_empty()  # what waits for the failed chunk is gone too
    assert numbers(project, "done") == [0, 1]
    table = project.icons("status").out
    assert f"failed   2                    {project.root / 'data' / 'train.json'} row {row} (id " in table
    assert "again    --array=2" in table
    assert not (project.run / "selection").exists()

    image.write_bytes(good)
    again = submit(cluster, project)
    assert ", chunks 2" in again
    assert "val-grads" not in again
    cluster.wait_until_empty()
    assert_same_files(project, finished)
    assert submit(cluster, project) == "nothing to submit: everything is done\n"


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Project:
    """A run of two chunks that take some seconds each, finished in one process."""
    root = tmp_path_factory.mktemp("slow")
    draw_vqa_set(root / "data", train_records=100, val_records=2)
    raw = project_config(root, tiny_model)
    raw["train"]["num_chunks"] = 2
    raw["tasks"] = raw["tasks"][:2]
    raw["gradients"] = {"projection": "rademacher", "dim": 4096, "tokens_per_batch": 1, "shard_rows": 4}
    raw["gradients"]["num_workers"] = 1  # a process that decodes images, which Slurm's signals strike too
    project = Project(root, raw)
    project.save()
    outcome = project.icons("run")
    assert outcome.code == 0, outcome.err
    return project


def test_preempted_requeued_and_killed(cluster: Cluster, slow: Project, tmp_path: Path) -> None:
    shutil.copytree(slow.root, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path, yaml.safe_load(slow.config.read_text()))
    forget(project, "train_grads", "influence", "selection")
    chunks = [project.run / "train_grads" / "final" / f"chunk-0000{number}-of-00002" for number in (0, 1)]

    def beat(number: int) -> dict[str, Any]:
        path = chunks[number] / "heartbeat.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"state": "none"}
        return found

    def under_way(number: int, shards: int) -> Callable[[], bool]:
        return lambda: beat(number)["state"] == "running" and finished_shards(chunks[number]) >= shards

    submit(cluster, project)
    cluster.wait_until(lambda: under_way(0, 1)() and under_way(1, 1)())
    assert numbers(project, "running") == [0, 1]
    cluster.run("sbatch", "--partition=urgent", "--cpus-per-task=8", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_until(lambda: beat(0)["state"] == beat(1)["state"] == "stopped")
    assert beat(0)["error"] == beat(1)["error"] == "SIGTERM"
    assert numbers(project, "stopped") == [0, 1]
    kept = {path: path.stat().st_ino for chunk in chunks for path in chunk.glob("shard-*")}
    before = [finished_shards(chunk) for chunk in chunks]

    cluster.wait_until(under_way(0, before[0] + 1))
    cluster.run("scancel", "--signal=USR2", "--batch", beat(0)["job"])  # as ahead of the time limit
    cluster.wait_until(under_way(1, before[1] + 1))
    os.kill(beat(1)["pid"], signal.SIGKILL)
    cluster.wait_until(lambda: beat(0)["state"] == "stopped")
    assert beat(0)["error"] == "SIGUSR2"
    log = next((project.run / "logs").glob("train-grads-final-*_0.log"))
    cluster.wait_until(lambda: "is requeued" in log.read_text())  # said behind the heartbeat
    cluster.wait_until_empty()
    assert numbers(project, "done") == [0]
    assert before[1] < finished_shards(chunks[1]) < 13

    assert ", chunks 1" in submit(cluster, project)
    cluster.wait_until_empty()
    assert_same_files(project, slow)
    assert {path: path.stat().st_ino for path in kept} == kept  # what was finished was not computed again


def test_the_published_commands_as_they_stand(
    cluster: Cluster, copy_of_finished: Project, finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays of the scripts' own size, the config from ICONS_CONFIG, a folder without logs."""
    project = copy_of_finished
    forget(project, "train_grads/final/chunk-00000-of-00003", "val_grads/final/colour", "influence")
    work = project.root / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("ICONS_CONFIG", "../config.yaml")
    for script, array in (("0_slurm_train_grads.sh", "0"), ("2_slurm_get_val_data_grads.sh", "1")):
        cluster.run("sbatch", f"--array={array}", SCRIPTS / script, "final")
    cluster.wait_until_empty()
    logs = sorted(work.glob("slurm-*.out"))
    assert len(logs) == 2
    assert "1 of 1 chunks computed" in logs[0].read_text()
    assert "val-grads colour final: 6 rows" in logs[1].read_text()
    assert project.icons("run").code == 0
    assert_same_files(project, finished)
