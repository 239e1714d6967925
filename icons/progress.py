"""How far a stage is: a bar on a terminal, a plain line a minute with its time in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tqdm import tqdm

from icons.errors import UserError
from icons.plain import for_terminal, in_line, json_for_terminal

SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Counts samples of one piece of work towards `total`; `done` of them were there before. No title: silent."""

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "samples") -> None:
        self._title, self._total, self._done, self._unit = title, total, done, unit
        self._start, self._first = time.monotonic(), done
        self._last_line = self._start
        self._bar = (
            tqdm(desc=in_line(title), total=total, initial=done, unit=f" {unit}", dynamic_ncols=True)
            if title and sys.stderr.isatty() and not _voice.quiet
            else None
        )

    def advance(self, count: int) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._title and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            note(self._line())
            if not _voice.quiet:
                print(f"{_now()} {for_terminal(self._line())}", file=sys.stderr, flush=True)

    def expect(self, total: int) -> None:
        """The total, where it is found out on the way."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total

    def _line(self) -> str:
        elapsed = time.monotonic() - self._start
        rate = (self._done - self._first) / elapsed if elapsed > 0 else 0.0
        left = f"{(self._total - self._done) / rate / 60:.0f} min left" if rate > 0 else "time left unknown"
        percent = 100 * self._done / max(self._total, 1)
        return f"{self._title}: {self._done}/{self._total} {self._unit} ({percent:.0f}%), {rate:.1f}/s, {left}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class _Voice:
    """What the person asked to hear, and where every line is kept as well."""

    quiet = False
    log: IO[str] | None = None


_voice = _Voice()


def only_errors(quiet: bool = True) -> None:
    """From now on nothing is said but errors; a command whose answer is what it says turns that off again."""
    _voice.quiet = quiet


def log_to(path: Path, command: Sequence[str]) -> None:
    """From now on every line also stands at the end of a file, with date and time; `command` is the first of them.

    Raises UserError when it cannot be written, or is no regular file: a pipe would be waited for, for ever.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise UserError(f"--log {path}: not a regular file")
        _voice.log = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UserError(f"--log {path}: cannot be written to ({error.strerror or error})") from None
    note(" ".join(command))


def note(text: str) -> None:
    """Into the log alone, if there is one."""
    if _voice.log is not None:
        stamp = _now()
        _voice.log.writelines(f"{stamp} {line}\n" for line in for_terminal(text).split("\n"))


def _now() -> str:
    """The date and time of this machine's place, as a log shows them."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def say(message: str) -> None:
    """One line for the person: results to standard output, at once; nothing in it commands the terminal."""
    note(message)
    if not _voice.quiet:
        print(for_terminal(message), flush=True)


def tell(message: str) -> None:
    """One line about the work, to standard error: for commands whose output another program may read."""
    print(for_terminal(message), file=sys.stderr, flush=True)


def say_json(value: Any, indent: int | None = 1) -> None:
    """The same for programs: a text that is not ASCII stays as it is, but for what would command a terminal."""
    print(json_for_terminal(value, indent), flush=True)
