"""A file that stays open and is read by position: nothing to share or to seek, so threads and forks may use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 22


class OpenFile:
    """Owns a file descriptor; what was opened stays what is read, also when its name is given to another file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> OpenFile:
        return cls(os.open(path, os.O_RDONLY))

    def __del__(self) -> None:
        os.close(self._descriptor)

    def stat(self) -> os.stat_result:
        return os.fstat(self._descriptor)

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
