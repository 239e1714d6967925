"""One Slurm for all tests of this folder; where it cannot be started they are skipped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, cluster, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Arrays hold two tasks at most, so that three chunks go beyond the limit."""
    if reason := missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        running = cluster(folder / "s", max_array_size=2)
        try:
            started = running.__enter__()
        except AssertionError as error:
            pytest.skip(f"Slurm is installed but does not start here: {error}")
        try:
            yield started
        finally:
            running.__exit__(None, None, None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
