"""Python programs in processes of their own, forked from one that has torch and transformers imported already.

A Python that imports them anew needs five seconds of a core, a fork some milliseconds. What is forked is a process like
any other: it has its own arguments, environment, folder and output, and can be stopped and killed. What is tested of
the start itself has to be started by `subprocess`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shlex
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = [
    "icons.pipeline", "icons.training.trainer", "icons.stages.training.finetune", "icons.stages.training.evaluate",
    "icons.report.page", "icons.models.tiny", "icons.cli", "peft", "pyarrow.parquet", "accelerate",
    "transformers.models.llava.modeling_llava", "transformers.models.llava.processing_llava",
    "transformers.models.clip.modeling_clip", "transformers.models.auto.processing_auto",
]  # fmt: skip
"""What most commands need; the rest they import themselves."""


class Program:
    """`python ARGUMENTS`, begun: a file, or -m and a module, or -c and code, and what these are given."""

    def __init__(
        self, *arguments: object, environment: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as out, tempfile.NamedTemporaryFile(delete=False) as err:
            self._files = (Path(out.name), Path(err.name))
        around = {**os.environ, **(environment or {})}
        self._process = _forked([str(argument) for argument in arguments], around, folder or Path.cwd(), self._files)
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def kill_when(self, moment: Callable[[], bool], seconds: float = 120) -> None:
        """Kills it as soon as `moment` says so; an AssertionError when it ends before."""
        self.wait_until(moment, seconds)
        self.kill()
        self.communicate()

    def wait_until(self, moment: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not moment():
            assert self.poll() is None, f"ended too early: {self.communicate()}"
            assert time.monotonic() < deadline, f"waited {seconds} s"
            time.sleep(0.001)

    def communicate(self, timeout: float = 200) -> tuple[str, str]:
        """What it wrote to standard output and error, when it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        out, err = (path.read_text() for path in self._files)
        for path in self._files:
            path.unlink()
        return out, err


def ran(*arguments: object, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of a program that has to end well."""
    program = Program(*arguments, environment=environment)
    out, err = program.communicate()
    assert program.returncode == 0, err
    return out


@contextmanager
def icons_for_the_shell() -> Iterator[Path]:
    """A folder with a program `icons` for the front of PATH, which has the command run in a fork and waits for it."""
    with tempfile.TemporaryDirectory() as name:
        folder, address = Path(name), str(Path(name) / "door")
        (folder / "caller.py").write_text(CALLER.format(address=address))
        call = shlex.join([sys.executable, "-IS", str(folder / "caller.py")])
        # Not by a first line of Python's own: the path of its environment may have a space.
        (folder / "icons").write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (folder / "icons").chmod(0o755)
        with socketserver.ThreadingUnixStreamServer(address, _Called) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,)).start()
            yield folder
            server.shutdown()


CALLER = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as door:
    door.connect({address!r})
    door.sendall(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), os.getpid()]).encode())
    door.shutdown(socket.SHUT_WR)
    sys.exit(int(door.recv(16)))
"""


class _Called(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        words, environment, folder, caller = json.loads(self.rfile.read())
        outputs = (Path(f"/proc/{caller}/fd/1"), Path(f"/proc/{caller}/fd/2"))
        process = _forked(["-m", "icons", *words], environment, Path(folder), outputs)
        process.join()
        self.wfile.write(str(process.exitcode).encode())


def _forked(words: list[str], environment: dict[str, str], folder: Path, outputs: tuple[Path, Path]) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_run, args=(words, environment, folder, outputs))
    process.start()
    return process


def _run(words: list[str], environment: dict[str, str], folder: Path, files: tuple[Path, Path]) -> None:
    """In the fork: what `python WORDS` does."""
    for number, name in enumerate(files, start=1):
        opened = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [str(folder), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    first, *rest = words
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path[0] = first if Path(first).is_dir() else str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")
