"""Row groups of Parquet files, read one at a time; a process keeps the newest of them, up to a number of bytes.

Parquet is compressed by row group and column: one image cannot be read without those around it. What was read is kept
for the next rows, which mostly lie in the same groups.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.data.index import SMALL, open_offsets
from icons.data.open_file import OpenFile
from icons.errors import BadRecordError, UserError
from icons.plain import in_line

IMAGE_COLUMNS = ("image", "images")
KEPT_BYTES = 256 << 20
"""Of row groups that a process keeps; one that is larger is kept alone."""
KEPT_FILES = 64
"""Open files of a process."""

State = tuple[int, int, int]


@dataclass(frozen=True)
class ParquetFile:
    """A Parquet file as it was when it was opened: its size, modification time (ns) and inode."""

    path: Path
    state: State

    def columns(self, group: int, names: tuple[str, ...] | None) -> Any:
        """A pyarrow Table of these columns (or leaves, by their dotted path) of a row group; None: all.

        Raises BadRecordError, which names file and row group, for a damaged one, UserError for another file.
        """
        key = (self, group, names)
        with _KEPT.lock:
            # Words and images apart: a small table must not push a large one out that the next row needs again.
            tables = _KEPT.images if names is None or names[0] in IMAGE_COLUMNS else _KEPT.words
            table = tables.get(key)
            if table is None:
                table = self._read(group, names)
                tables.keep(key, table)
        if isinstance(table, str):
            raise BadRecordError(table)
        return table

    def require_unchanged(self) -> None:
        """Raises UserError when another file has its name by now, or something was written into it."""
        if state_of(self.path) != self.state:
            raise UserError(f"{self.path}: changed while it was read; run again when it is complete")

    def _read(self, group: int, names: tuple[str, ...] | None) -> Any:
        file = _KEPT.files.pop(self, None) or self._opened()
        _KEPT.files[self] = file
        while len(_KEPT.files) > KEPT_FILES:
            _KEPT.files.popitem(last=False)[1].close()
        try:
            return file.read_row_group(group, columns=None if names is None else list(names), use_threads=False)
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are kinds of these
            return f"{self.path}: row group {group} cannot be read ({in_line(error, 200)})"

    def _opened(self) -> Any:
        import pyarrow.parquet as pq

        self.require_unchanged()
        try:
            return pq.ParquetFile(self.path, page_checksum_verification=True, pre_buffer=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: cannot be read as Parquet ({in_line(error, 200)})") from None


def open_parquet(path: Path) -> tuple[ParquetFile, Any, str]:
    """The file, its footer (pyarrow's FileMetaData with `schema`) and its SHA-256; UserError when it is no Parquet."""
    try:
        file = OpenFile.at(path)
        before = state_of(path)
        sha256 = file.sha256() if file.stat().st_size <= SMALL else open_offsets(path, file, "whole").sha256
        opened = ParquetFile(path, before)
        if file.state() != before[:2]:
            raise UserError(f"{path}: changed while it was read; run again when it is complete")
        footer = opened._opened()
        metadata = footer.metadata, footer.schema_arrow
        footer.close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    return opened, metadata, sha256


def state_of(path: Path) -> State:
    """Raises UserError when the file is gone."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); was it moved while in use?") from None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


class _Tables:
    """The newest tables, up to a number of bytes; one that is larger is kept alone."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._tables: OrderedDict[Any, Any] = OrderedDict()  # a str is why the group cannot be read

    def get(self, key: Any) -> Any:
        if key in self._tables:
            self._tables.move_to_end(key)
        return self._tables.get(key)

    def keep(self, key: Any, table: Any) -> None:
        self._tables[key] = table
        self._bytes += _size(table)
        while self._bytes > self._most and len(self._tables) > 1:
            self._bytes -= _size(self._tables.popitem(last=False)[1])


class _Kept:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.images, self.words = _Tables(KEPT_BYTES), _Tables(KEPT_BYTES // 4)
        self.files: OrderedDict[ParquetFile, Any] = OrderedDict()


def _size(table: Any) -> int:
    return 0 if isinstance(table, str) else int(table.nbytes)


_KEPT = _Kept()


def _start_anew() -> None:
    """In a forked process: the parent's lock may be held, and its tables are its own."""
    global _KEPT
    _KEPT = _Kept()


os.register_at_fork(after_in_child=_start_anew)
