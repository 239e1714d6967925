"""A file that stays open and is read by position: nothing to share or to seek, so threads and forks may use it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 22


class OpenFile:
    """Owns a file descriptor; what was opened stays what is read, also when its name is given to another file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> OpenFile:
        """OSError when it cannot be opened, or is no regular file: a pipe or a device would be waited for, for ever."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return cls(descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def stat(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    def state(self) -> tuple[int, int]:
        """Size and modification time (ns): they stay while nothing writes into the file."""
        stat = self.stat()
        return stat.st_size, stat.st_mtime_ns

    def sha256(self) -> str:
        """Hex SHA-256 of all its bytes."""
        total = hashlib.sha256()
        for block in self.blocks():
            total.update(block)
        return total.hexdigest()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), fewer where the file ends before."""
        pieces = []
        while start < stop:
            piece = os.pread(self._descriptor, min(stop - start, 1 << 30), start)
            if not piece:
                break
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to `stop`, or to the end, a few MiB at a time."""
        while block := self.read(start, start + BLOCK if stop is None else min(stop, start + BLOCK)):
            yield block
            start += len(block)
