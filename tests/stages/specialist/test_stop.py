"""TERM and USR2: the shard under way is finished if there is time, nothing is lost, and the exit code says so."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from icons.stop import GRACE_SECONDS, Stopped, finishing, leave_if_asked, stoppable
from tests.conftest import Project
from tests.stages.specialist.test_kill import shards
from tests.warm import Program


def test_a_signal_strikes_at_once_and_only_once() -> None:
    def work() -> None:
        with stoppable():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)  # while cleaning up

    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        work()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_work_that_fits_into_the_time_left_is_finished() -> None:
    with stoppable():
        leave_if_asked()
        with finishing():
            signal.raise_signal(signal.SIGUSR2)
            leave_if_asked(GRACE_SECONDS["SIGUSR2"] / 2)
            with pytest.raises(Stopped):
                leave_if_asked(GRACE_SECONDS["SIGUSR2"] * 2)
        with pytest.raises(Stopped):
            leave_if_asked()  # before the next piece is begun


def test_a_helper_process_that_dies_of_the_same_signal_is_no_error() -> None:
    def work() -> None:
        with finishing():
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    with stoppable(), pytest.raises(Stopped):
        work()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_stopped_command_goes_on_from_there(name: str, copy_of_finished: Project, finished: Project) -> None:
    project, folder = copy_of_finished, copy_of_finished.run / "train_grads"
    for path in folder.rglob("chunk-*/*"):
        path.unlink()
    process = Program("-m", "icons", "train-grads", project.config)
    process.wait_until(lambda: shards(folder) != {})
    process.send_signal(getattr(signal, name))
    _, err = process.communicate()
    assert process.returncode == 75, err
    assert err == f"stopped by {name}; finished work is kept, the same command goes on from there\n"
    kept = shards(folder)
    assert 0 < len(kept) < 9
    assert f"by {name}" in project.icons("status").out
    assert project.icons("run").code == 0
    again = shards(folder)
    assert {path: again[path] for path in kept} == kept
    for path in again:
        assert (folder / path).read_bytes() == (finished.run / "train_grads" / path).read_bytes()


def test_a_signal_after_the_work_is_done_does_not_undo_it(finished: Project) -> None:
    """The interpreter takes its time to end, and Slurm would take a job that dies meanwhile for a failed one."""
    code = (
        "import atexit, os, signal, sys, icons.cli\n"
        "atexit.register(lambda: [os.kill(os.getpid(), s) for s in (signal.SIGUSR2, signal.SIGTERM)])\n"
        "icons.cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "job", "generalist", "--config", str(finished.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_job_that_cannot_finish_a_shard_in_its_time_is_not_requeued(copy_of_finished: Project) -> None:
    folder = copy_of_finished.run / "train_grads" / "final" / "chunk-00000-of-00003"
    for path in folder.iterdir():
        path.unlink()
    options = ["job", "train-grads", "--config", copy_of_finished.config, "--chunk", 0]
    process = Program("-m", "icons", *options, environment={"SLURM_JOB_ID": "1"})
    process.wait_until((folder / "heartbeat.json").is_file)
    process.send_signal(signal.SIGUSR2)  # while the model is loaded
    _, err = process.communicate()
    assert process.returncode == 2, err
    message = "not requeued: the time limit is too short for one shard: raise --time or lower gradients.shard_rows"
    assert err == f"error: {message}\n"
    assert f"failed   0                    {message}" in copy_of_finished.icons("status").out
