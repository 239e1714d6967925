"""Files and folders that are either whole or not there: written beside their place, flushed, renamed."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_bytes(path: Path, *parts: bytes) -> None:
    """Replaces `path` by the joined parts in one step."""
    write_parts(path, parts)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Replaces `path` in one step; after a crash it holds the old content or the new, never a piece.

    The file gets the user's umask. A killed process leaves a `.*.tmp` beside `path`, which nothing reads.
    """
    with new_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(parts)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to be written as a file, which takes its name at the end; after an error it is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        raise
    flush(path.parent)


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside `path` to be filled, which takes its name at the end; after an error or a kill it does not.

    An empty folder at `path` gives way, with `replace` any. What a killed process of this machine left is removed when
    the same folder is begun again. Of two at once the first to end has the name, the other one an OSError (ENOTEMPTY).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{path.name}.icons-tmp.{os.uname().nodename}-"
    for left in path.parent.glob(f"{glob.escape(own)}*"):
        if not _lives(left.name.removeprefix(own)):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.parent / f"{own}{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for each in [*temporary.rglob("*"), temporary]:
            flush(each)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists():
            path.rmdir()
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush(path.parent)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        return True  # of another user
    return True


def flush(path: Path) -> None:
    """To the disk: the content of a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
