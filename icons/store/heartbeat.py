"""Signs of life of the process that computes a folder of shards: how far it is, or why it ended before the end.

`heartbeat.json` is rewritten every ten seconds and deleted when the folder is complete. Whether it is fresh is judged
by the file system's clock alone: the modification time of the beat against that of a file made at the moment of
looking. Clocks of nodes that differ, or jump, do not matter. On the machine that computes the process itself is looked
for.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from icons.errors import UserError
from icons.plain import in_line
from icons.stop import Stopped
from icons.store.files import read_json, write_json
from icons.store.lock import only_one_process
from icons.store.rows import read_manifest

BEAT_SECONDS = 10.0
FRESH_SECONDS = 120.0  # a client of a network file system may see a file up to a minute late
FILE = "heartbeat.json"


@dataclass(frozen=True)
class Beat:
    """The last sign of life: `state` running, stopped (by a signal) or failed; rows of the folder done by then.

    `rate` in rows a second since the process's first batch; `idle` seconds since the last row; `age` seconds since
    it was written; `machine` a name of the running system and its process numbers (empty: unknown); `job` the Slurm job
    id or empty; `error` what went wrong, or the signal.
    """

    state: str
    rows: int
    total: int
    rate: float
    idle: float
    host: str
    machine: str
    pid: int
    job: str
    error: str
    age: float

    @property
    def alive(self) -> bool:
        if self.state != "running" or abs(self.age) >= FRESH_SECONDS:
            return False
        return not self.machine or self.machine != _machine() or Path(f"/proc/{self.pid}").is_dir()


class Heartbeat:
    """Beats in a thread of its own while open; one that cannot be written (a full disk) never stops the work."""

    def __init__(self, folder: Path, total: int, done: int) -> None:
        self._folder, self._total, self._done = folder, total, done
        self._first: tuple[float, int] | None = None  # when the first batch was done, and the rows by then
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def advance(self, count: int) -> None:
        self._done += count
        self._last = time.monotonic()
        self._first = self._first or (self._last, self._done)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self.write()

    def write(self, state: str = "running", error: str = "") -> None:
        now = time.monotonic()
        since, rows = self._first or (now, self._done)
        rate = (self._done - rows) / max(now - since, 1e-9)
        beat = {"rows": self._done, "total": self._total, "rate": round(rate, 3), "idle": round(now - self._last, 1)}
        _write(self._folder, {"state": state, **beat, "error": error})

    def __enter__(self) -> Heartbeat:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            with suppress(OSError):
                (self._folder / FILE).unlink(missing_ok=True)
        elif isinstance(error, Stopped | KeyboardInterrupt):
            self.write("stopped", error.signal if isinstance(error, Stopped) else "SIGINT")
        else:
            self.write("failed", describe(error))


def describe(error: BaseException) -> str:
    """One line for an error: a user's mistake in its own words, anything else with its kind."""
    text = str(error).strip().partition("\n")[0][:500]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def note_failure(folder: Path, error: BaseException) -> None:
    """Leaves the error in a folder that is not complete, unless another process is computing it."""
    with suppress(UserError, OSError), only_one_process(folder):
        manifest = read_manifest(folder)
        if manifest is None or not manifest.complete:
            rows, total = (manifest.rows_done, manifest.stop - manifest.start) if manifest else (0, 0)
            _write(
                folder,
                {"state": "failed", "rows": rows, "total": total, "rate": 0, "idle": 0, "error": describe(error)},
            )


def read_beat(folder: Path, now: float) -> Beat | None:
    """The last beat, None without a readable one; `now` is the file system's time as `file_system_now` gives it."""
    path = folder / FILE
    try:
        raw: Any = read_json(path)
        typed = {name: _KINDS[name](raw[name]) for name in _KINDS}
        return Beat(age=now - path.stat().st_mtime, **typed)
    except (OSError, UserError, TypeError, ValueError, KeyError, OverflowError, RecursionError):
        return None


_KINDS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("state", "host", "machine", "job", "error"), lambda value: in_line(value, 500)),
    **dict.fromkeys(("rows", "total", "pid"), int),
    **dict.fromkeys(("rate", "idle"), float),
}


def file_system_now(folder: Path) -> float:
    """The time that the file system of `folder` gives a new file; this machine's where nothing can be written."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.", suffix=".tmp") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def _write(folder: Path, content: dict[str, Any]) -> None:
    who = {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid()}
    with suppress(OSError):
        write_json(folder / FILE, {**content, **who, "job": os.environ.get("SLURM_JOB_ID", "")})


def _machine() -> str:
    """Differs between machines, restarts and containers; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
