"""Files that are either whole or not there: written beside their place, flushed, renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path


def write_bytes(path: Path, *parts: bytes) -> None:
    """Replaces `path` by the joined parts in one step."""
    write_parts(path, parts)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Replaces `path` in one step; after a crash it holds the old content or the new, never a piece.

    The file gets the user's umask. A killed process leaves a `.*.tmp` beside `path`, which nothing reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
