"""A real Slurm on this machine: one node with two pretend GPUs, and a partition `urgent` that preempts by requeueing.

As root, without systemd. `python -m tests.slurm.cluster DIR` starts one and waits for the end of its standard input.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=100000
ReturnToService=2
KillWait=5
MaxArraySize={max_array_size}
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE PriorityTier=10
"""


def missing() -> str:
    """Why no Slurm can be started here; empty when it can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    absent = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name, path=_path()) is None]
    return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)" if absent else ""


@dataclass(frozen=True)
class Cluster:
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: object, check: bool = True) -> str:
        done = subprocess.run(
            [str(part) for part in command], env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def queue(self) -> list[tuple[str, str, str]]:
        """(array or job id with index, name, state) of every job that has not ended."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i|%j|%T").splitlines()
        return [(job, name, state) for job, name, state in (line.split("|") for line in lines)]

    def wait_until(self, moment: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not moment():
            assert time.monotonic() < deadline, f"waited {seconds} s; squeue: {self.run('squeue', check=False)}"
            time.sleep(0.1)

    def wait_until_empty(self, seconds: float = 120) -> None:
        self.wait_until(lambda: not self.queue(), seconds)


@contextmanager
def cluster(folder: Path, max_array_size: int = 1001) -> Iterator[Cluster]:
    """Started in `folder`, which must be short enough for a socket's path; all of it is ended on leaving."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    host = os.uname().nodename.partition(".")[0]
    names = {"folder": folder, "host": host, "max_array_size": max_array_size}
    ports = {"port": _free_port(), "other_port": _free_port()}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**names, **ports))
    (folder / "gres.conf").write_text("".join(f"Name=gpu File=/dev/{name}\n" for name in ("null", "zero")))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    started = Cluster(folder)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        own = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "log", "pid", "seed")]
        _start(daemons, started, "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *own)
        started.wait_until(lambda: (folder / "munge.socket").exists(), 20)
        for name in ("slurmctld", "slurmd"):
            _start(daemons, started, name, "-D", "-f", folder / "slurm.conf")
        started.wait_until(
            lambda: started.run("sinfo", "-h", "-o", "%t", check=False).strip() in ("idle\nidle", "idle")
        )
        yield started
    finally:
        _end(started, daemons)


def _start(daemons: list[subprocess.Popen[bytes]], started: Cluster, *command: object) -> None:
    words = [str(part) for part in command]
    with (started.folder / f"{words[0]}.out").open("wb") as log:
        daemons.append(subprocess.Popen(words, env=started.environment, stdout=log, stderr=log))


def _end(started: Cluster, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Jobs first, whose steps outlive the daemons."""
    if len(daemons) == 3:
        started.run("scancel", "--user=root", check=False)
        deadline = time.monotonic() + 20
        while started.run("squeue", "--noheader", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.2)
    for daemon in reversed(daemons):
        daemon.send_signal(signal.SIGTERM)
    for daemon in reversed(daemons):
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


if __name__ == "__main__":
    with cluster(Path(sys.argv[1]).absolute()) as running:
        print(f"export SLURM_CONF={running.folder}/slurm.conf", flush=True)
        sys.stdin.read()
