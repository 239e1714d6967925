"""The shell scripts, without Slurm: each is one icons command with the config and the options handed on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project
from tests.warm import icons_for_the_shell

SCRIPTS = ROOT / "scripts"
INSTALLED = Path(sys.executable).parent  # where the installed `icons` is


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("warmup.sh", [], "warmup: "),
        ("0_slurm_train_grads.sh", ["2", "--chunk", "1"], "1 of 1 chunks computed"),
        ("2_get_val_data_grads_all.sh", ["4"], "val-grads digit 4: "),
        ("2_slurm_get_val_data_grads.sh", ["4", "--task", "digit"], "val-grads digit 4: "),
        ("1_merge_train_gradient.sh", [], "merge final: 100 rows"),
        ("3_specialist.sh", [], "specialist: 100 rows"),
        ("4_generalist.sh", ["--set", "selection.percent=30"], "30 of 100 selected"),
    ],
)
def test_a_script_runs_its_command(script: str, options: list[str], words: str, copy_of_finished: Project) -> None:
    with icons_for_the_shell() as programs:
        done = bash(script, *options, ICONS_CONFIG=str(copy_of_finished.config), programs=programs)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def bash(
    script: str, *options: str, programs: Path = INSTALLED, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A script with `icons` of the folder `programs`."""
    path = f"{programs}:{INSTALLED}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", SCRIPTS / script, *options],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_array_task_computes_its_own_chunk(copy_of_finished: Project) -> None:
    config = str(copy_of_finished.config)
    with icons_for_the_shell() as programs:
        options = ["4", "--config", config, "--offset", "1"]
        done = bash("0_slurm_train_grads.sh", *options, SLURM_ARRAY_TASK_ID="1", programs=programs)
    assert done.returncode == 0, done.stderr
    chunks = (copy_of_finished.run / "train_grads" / "checkpoint-4").iterdir()
    assert [chunk.name for chunk in chunks] == ["chunk-00002-of-00003"]


@pytest.mark.parametrize(
    ("script", "words"),
    [("0_slurm_train_grads.sh", "train.num_chunks holds 3"), ("2_slurm_get_val_data_grads.sh", "tasks holds 7")],
)
def test_an_array_task_beyond_the_last_does_nothing(script: str, words: str, finished: Project) -> None:
    done = bash(script, "4", "--config", str(finished.config), SLURM_ARRAY_TASK_ID="100")
    assert done.returncode == 0, done.stderr
    assert f"array index 100, and {words}: nothing to do" in done.stdout


def test_a_task_that_fails_before_its_first_row_leaves_its_error(copy_of_finished: Project) -> None:
    config = str(copy_of_finished.config)
    with icons_for_the_shell() as programs:
        done = bash("0_slurm_train_grads.sh", "3", "--config", config, SLURM_ARRAY_TASK_ID="1", programs=programs)
    assert done.returncode == 2
    printed = copy_of_finished.icons("status", "--set", "gradients.checkpoints=[3]").out
    assert "  3      failed   1                    no adapter " in printed


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sh")))
def test_a_script_stops_at_the_first_error_and_names_no_cluster(script: str) -> None:
    text = (SCRIPTS / script).read_text()
    assert "\nset -euo pipefail\n" in text
    assert "--partition" not in text
    assert "--account" not in text
