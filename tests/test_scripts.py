"""The shell scripts, without Slurm: each is one icons command with the config and the options handed on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Project

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("warmup.sh", [], "warmup: "),
        ("0_slurm_train_grads.sh", ["2", "--chunk", "1"], "1 of 1 chunks computed"),
        ("2_get_val_data_grads_all.sh", ["4"], "val-grads digit 4: "),
        ("1_merge_train_gradient.sh", [], "merge final: 100 rows"),
        ("3_specialist.sh", [], "specialist: 100 rows"),
        ("4_generalist.sh", ["--set", "selection.percent=30"], "30 of 100 selected"),
    ],
)
def test_a_script_runs_its_command(script: str, options: list[str], words: str, copy_of_finished: Project) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", SCRIPTS / script, *options],
        env={**os.environ, "PATH": path, "ICONS_CONFIG": str(copy_of_finished.config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_an_array_task_computes_its_own_chunk(copy_of_finished: Project) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ICONS_CONFIG": str(copy_of_finished.config), "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(
        ["bash", SCRIPTS / "0_slurm_train_grads.sh", "4"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    chunks = (copy_of_finished.run / "train_grads" / "checkpoint-4").iterdir()
    assert [chunk.name for chunk in chunks] == ["chunk-00002-of-00003"]
