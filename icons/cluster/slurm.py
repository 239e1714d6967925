"""The few Slurm commands that are used: squeue, sbatch, scancel, scontrol."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icons.errors import UserError

_FIELDS = "%A|%F|%K|%T|%E|%j"


@dataclass(frozen=True)
class QueuedJob:
    """A job or array task of one's own that has not ended: its id, its array's id, its index (None: not an array)."""

    job: str
    array: str
    index: int | None
    state: str
    waits: bool  # for another job
    hopeless: bool  # and that has failed
    name: str

    @property
    def pending(self) -> bool:
        return self.state == "PENDING"


def queue() -> list[QueuedJob]:
    """One's own jobs that are waiting, running or being ended, array tasks one by one."""
    jobs = []
    for line in _run(["squeue", "--me", "--noheader", "--array", f"--format={_FIELDS}"]).splitlines():
        job, array, index, state, waits_for, name = line.split("|", 5)
        number = int(index) if index.isdigit() else None
        jobs.append(QueuedJob(job, array, number, state, waits_for != "(null)", "(failed)" in waits_for, name))
    return jobs


def max_array_size() -> int:
    """MaxArraySize: indices are below it (1001 unless the cluster says otherwise)."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]), re.MULTILINE)
    size = int(match.group(1)) if match else 1001
    if size < 1:
        raise UserError("this cluster takes no job arrays (MaxArraySize is 0); use `icons run` in one job")
    return size


def submit(command: Sequence[str]) -> str:
    """Runs an sbatch command (with --parsable), jobs finding the same `icons` as this process; the new job's id."""
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    return _run(command, environment).strip().partition(";")[0]


def cancel(jobs: Sequence[str]) -> None:
    if jobs:
        _run(["scancel", *jobs])


def requeue(job: str) -> None:
    _run(["scontrol", "requeue", job])


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not here; submit from a machine with Slurm's commands") from None
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"{command[0]}: {reason}")
    return done.stdout
