"""Being asked to stop: Ctrl-C, SIGTERM (a preemption, scancel) or SIGUSR2 (ahead of a job's time limit).

The signal raises `Stopped` where it strikes: what is on disk is whole, and the same command goes on from there. Inside
`finishing` it is only noted, and `leave_if_asked` raises once the piece of work under way cannot be finished in time.
A second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, but nothing is wrong
EXIT_BY_HAND = 130  # what a shell reports of a command that Ctrl-C ended
GRACE_SECONDS = {"SIGINT": 20.0, "SIGTERM": 20.0, "SIGUSR2": 90.0}
"""How long work may go on: Slurm kills 30 s after TERM (KillWait), and the scripts ask for USR2 120 s ahead."""


class Stopped(BaseException):
    """The process was asked to stop by `signal`; not an Exception, so that no handler of errors takes it for one."""

    def __init__(self, signal: str) -> None:
        how = "Ctrl-C" if signal == "SIGINT" else signal
        super().__init__(f"stopped by {how}; finished work is kept, the same command goes on from there")
        self.signal = signal

    @property
    def exit_code(self) -> int:
        return EXIT_BY_HAND if self.signal == "SIGINT" else EXIT_CODE


@dataclass
class _Request:
    """Signals strike a whole process, so there is one of these: which came last, until when, and what it may do."""

    signal: str | None = None
    deadline: float = 0.0
    heard: bool = False  # whether signals are turned into Stopped at all
    noted_only: bool = False
    raised: bool = False


_request = _Request()


@contextmanager
def stoppable(*, last: bool = False) -> Iterator[None]:
    """Turns the two signals into `Stopped` while open; without effect outside the main thread or inside another.

    With `last` the process has nothing to do behind it: a signal that strikes while it ends must not make it a failed
    one, and is ignored.
    """
    global _request
    if _request.heard or threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in GRACE_SECONDS if hasattr(signal, name)]
    _request = _Request(heard=True)
    before = {name: signal.signal(getattr(signal, name), _strike) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), signal.SIG_IGN if last else handler)
        _request = _Request()


@contextmanager
def finishing() -> Iterator[None]:
    """While open a signal is only noted. An error after it counts as its doing: it strikes helper processes too."""
    _request.noted_only = True
    try:
        yield
    except Exception:
        leave_if_asked()
        raise
    finally:
        _request.noted_only = False


def leave_if_asked(seconds_needed: float = float("inf")) -> None:
    """Raises Stopped when a signal was noted and `seconds_needed` more are not to be had."""
    if _request.signal is not None and time.monotonic() + seconds_needed > _request.deadline:
        _request.raised = True
        raise Stopped(_request.signal)


def asked() -> str | None:
    """The name of the signal that was noted inside `finishing`, if any."""
    return _request.signal


def stop_as(request: str) -> NoReturn:
    """Ends as that signal asks, noted here or in another process of the same training."""
    _request.raised = True
    raise Stopped(request)


def _strike(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if name == "SIGINT" and _request.signal == "SIGINT":
        raise KeyboardInterrupt
    _request.signal, _request.deadline = name, time.monotonic() + GRACE_SECONDS[name]
    if not _request.noted_only and not _request.raised:
        _request.raised = True
        raise Stopped(name)
