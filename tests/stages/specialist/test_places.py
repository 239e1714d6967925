"""Disks that fill up or turn read-only, folders of somebody else, file systems without locks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome, Project
from tests.reference.selection import read_selection
from tests.stages.specialist.test_replaced import before


def mounted(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MB; skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=64m"):
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> None:
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - leave))


def refused(outcome: Any, words: str) -> None:
    assert outcome.code == 2, outcome.out + outcome.err
    assert words in outcome.err
    assert "finished work is kept" in outcome.err
    assert len(outcome.err.splitlines()) == 1, outcome.err


@pytest.mark.parametrize("command", ["warmup", "finetune", "train-grads", "specialist", "generalist"])
def test_a_full_disk_is_one_line_in_every_stage(
    command: str, disk: Path, copy_of_finished: Project, finished: Project
) -> None:
    project = copy_of_finished
    shutil.copytree(project.run, disk / "run")
    gone = {
        "warmup": "warmup",
        "finetune": "report",
        "train-grads": "train_grads",
        "specialist": "influence",
        "generalist": "selection",
    }
    shutil.rmtree(disk / "run" / gone[command])
    options = ["--set", f"output_dir={disk / 'run'}", "--set", "finetune.max_steps=2"]
    options += ["--everything"] if command == "finetune" else []
    fill(disk, 20_000 if command != "generalist" else 8_000)
    outcome = project.icons(command, *options)
    refused(outcome, "no space left on the disk")
    (disk / "filler").unlink()
    if command == "finetune":
        assert project.icons(command, *options).code == 0
    again = project.icons("run", *options[:2])
    assert again.code == 0, again.err
    assert read_selection(disk / "run") == read_selection(finished.run)


def test_a_disk_that_turns_read_only_and_back(
    copy_of_finished: Project, finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only file system comes over the chunk's folder while its first shard is computed."""
    project = copy_of_finished
    shutil.rmtree(project.run / "train_grads")
    chunk = project.run / "train_grads" / "final" / "chunk-00000-of-00003"
    there: list[bool] = []
    before(monkeypatch, "icons.stages.specialist.collect._write", lambda: there.append(mounted(chunk, "ro")))
    outcome = project.icons("train-grads")
    if not there[0]:
        pytest.skip("no file system can be mounted here")
    subprocess.run(["umount", "-l", str(chunk)], check=True)
    refused(outcome, "the file system is read-only")
    assert project.icons("run").code == 0
    assert read_selection(project.run) == read_selection(finished.run)


def test_a_file_system_without_locks(copy_of_finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    for name in ("train_grads", "influence", "selection"):
        shutil.rmtree(copy_of_finished.run / name)
    assert copy_of_finished.icons("run").code == 0


def as_nobody(project: Project, *arguments: object) -> Outcome:
    """A command in a forked process of another user; what it has to import is imported."""
    import multiprocessing

    def work(pipe: Any) -> None:
        os.setgid(65534)
        os.setuid(65534)
        outcome = project.icons(*arguments)  # type: ignore[arg-type]
        pipe.send((outcome.code, outcome.out, outcome.err))
        os._exit(0)

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(theirs,))
    process.start()
    assert ours.poll(60)
    outcome = Outcome(*ours.recv())
    process.join()
    return outcome


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("what", "mode", "words"),
    [
        ("run", 0o555, "ermission denied"),
        ("data/train.json", 0o000, "train.json"),
        ("data/tasks", 0o000, "tasks"),
        ("run/influence/scores.safetensors", 0o000, "scores.safetensors"),
    ],
)
def test_another_users_files(what: str, mode: int, words: str, copy_of_finished: Project, tiny_model: Path) -> None:
    """In a place that nobody can reach, with one thing in it that nobody may read or write."""
    assert copy_of_finished.icons("generalist", "--set", "selection.percent=30").code == 0  # imports
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = Path(name)
        shutil.copytree(copy_of_finished.root, root, dirs_exist_ok=True)
        shutil.copytree(tiny_model, root / "model")
        shutil.rmtree(root / "run" / "selection")
        for path in [root, *root.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)
        (root / what).chmod(mode)
        project = Project(root, copy_of_finished.raw)
        outcome = as_nobody(project, "generalist", "--set", f"model.base={root}/model")
        (root / what).chmod(0o777)
    assert outcome.code == 2, outcome.err
    assert words in outcome.err
    assert "Traceback" not in outcome.err
