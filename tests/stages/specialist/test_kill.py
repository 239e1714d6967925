"""kill -9 at any moment, then the same command: the same selection, at most one shard computed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.reference.selection import read_selection
from tests.warm import Program


def kill_when(project: Project, command: str, moment: Callable[[], bool]) -> None:
    """Starts the command in a process of its own and kills it as soon as `moment` says so."""
    Program("-m", "icons", command, project.config).kill_when(moment)


def shards(folder: Path) -> dict[str, int]:
    """Finished shards by the manifests' word, with the inode that a rewritten file would not keep."""
    found = {}
    for manifest in sorted(folder.rglob("manifest.json")):
        for shard in json.loads(manifest.read_text())["shards"]:
            path = manifest.parent / shard["file"]
            found[str(path.relative_to(folder))] = path.stat().st_ino
    return found


@pytest.mark.parametrize(
    ("command", "where", "after"),
    [("train-grads", "train_grads", 3), ("val-grads", "val_grads", 2), ("specialist", "influence/parts", 2)],
)
def test_killed_and_started_again(
    command: str, where: str, after: int, copy_of_finished: Project, finished: Project
) -> None:
    project, folder = copy_of_finished, copy_of_finished.run / where
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (project.run / "influence" / "scores.safetensors").unlink()
    (project.run / "selection" / "vote-20" / "selected_indices.json").unlink()

    kill_when(project, command, lambda: len(shards(folder)) >= after)
    kept = shards(folder)
    assert kept
    complete = len(shards(finished.run / where))
    assert len(kept) < complete, "killed too late to show anything"
    outcome = project.icons("run")
    assert outcome.code == 0, outcome.err

    again = shards(folder)
    assert len(again) == complete
    assert {name: again[name] for name in kept} == kept
    assert read_selection(project.run) == read_selection(finished.run)
    for name in again:
        assert (folder / name).read_bytes() == (finished.run / where / name).read_bytes()


def test_a_killed_warm_up_ends_with_the_same_adapter(project: Project, finished: Project) -> None:
    checkpoint = project.run / "warmup" / "checkpoint-2"
    kill_when(project, "warmup", lambda: (checkpoint / "complete").is_file())
    before = (checkpoint / "adapter_model.safetensors").stat().st_ino
    assert not (project.run / "warmup" / "final").is_dir()
    outcome = project.icons("warmup")
    assert outcome.code == 0, outcome.err
    assert (checkpoint / "adapter_model.safetensors").stat().st_ino == before
    for name in ("checkpoint-2", "final"):
        again = project.run / "warmup" / name / "adapter_model.safetensors"
        assert again.read_bytes() == (finished.run / "warmup" / name / "adapter_model.safetensors").read_bytes()


def test_a_checkpoint_cut_off_in_the_middle_does_not_count(project: Project, finished: Project) -> None:
    kill_when(project, "warmup", lambda: (project.run / "warmup" / "checkpoint-2").is_dir())
    (project.run / "warmup" / "checkpoint-2" / "complete").unlink(missing_ok=True)
    assert project.icons("warmup").code == 0
    again = project.run / "warmup" / "final" / "adapter_model.safetensors"
    assert again.read_bytes() == (finished.run / "warmup" / "final" / "adapter_model.safetensors").read_bytes()


def test_temporary_files_of_a_killed_process_are_harmless(copy_of_finished: Project, finished: Project) -> None:
    chunk = copy_of_finished.run / "train_grads" / "final" / "chunk-00001-of-00003"
    (chunk / ".shard-00001.safetensors.1-abc.tmp").write_bytes(b"half a shard")
    (chunk / ".manifest.json.1-abc.tmp").write_bytes(b"{")
    (chunk / "manifest.json").unlink()
    assert copy_of_finished.icons("run").code == 0
    assert read_selection(copy_of_finished.run) == read_selection(finished.run)


def test_a_shard_that_is_gone_is_computed_again(copy_of_finished: Project, finished: Project) -> None:
    name = "train_grads/final/chunk-00001-of-00003/shard-00001.safetensors"
    (copy_of_finished.run / name).unlink()
    outcome = copy_of_finished.icons("merge")
    assert outcome.code == 2
    assert "shard-00001.safetensors is missing" in outcome.err
    assert copy_of_finished.icons("run").code == 0
    assert (copy_of_finished.run / name).read_bytes() == (finished.run / name).read_bytes()
