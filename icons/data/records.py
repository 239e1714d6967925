"""Records of a LLaVA-format data file: one JSON list, or JSON lines.

A JSON list is parsed once; of a JSON-lines file only the line offsets are kept, and a line is parsed when it is
asked for.
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

from icons.errors import BadRecordError, UserError


class Records:
    """Random access to the records of one data file.

    Raises UserError when the file as a whole cannot be used: unreadable, empty, broken JSON (with the line), not a
    list. A single broken line of a JSON-lines file raises BadRecordError when that record is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
            self._list = None if head.startswith(b"{") else self._parse_list()
            self._offsets = self._scan_lines() if self._list is None else array("q")
            if len(self._offsets) > 1:
                self._refuse_one_object(head)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        self._length = len(self._offsets) if self._list is None else len(self._list)
        if self._length == 0:
            raise UserError(f"{path}: holds no records")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        record = self._line(row) if self._list is None else self._list[row]
        if not isinstance(record, dict):
            raise BadRecordError(f"{self.where(row)}: expected an object, found {type(record).__name__}")
        return record

    def where(self, row: int, record: dict[str, Any] | None = None) -> str:
        """`file row 12 (id 'x')`, the way every message about a record begins."""
        name = record.get("id") if isinstance(record, dict) else None
        return f"{self.path} row {row}" + (f" (id {name!r})" if name is not None else "")

    def _parse_list(self) -> list[Any]:
        content = self.path.read_bytes()
        if not content.strip():
            raise UserError(f"{self.path}: holds no records, it is empty")
        try:
            records = json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{self.path} line {error.lineno}: broken JSON ({error.msg})") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}: cannot be read as JSON ({error})") from None
        if not isinstance(records, list):
            raise UserError(f"{self.path}: expected a list of records, found {type(records).__name__}")
        return records

    def _refuse_one_object(self, head: bytes) -> None:
        """A single object over many lines would pass for as many broken records."""
        first = head.splitlines()[0].strip() if head else b""
        if first in {b"{", b'{"'}:
            raise UserError(f"{self.path}: one JSON object over several lines; expected a list, or a record a line")

    def _scan_lines(self) -> array[int]:
        offsets, position = array("q"), 0
        with self.path.open("rb") as file:
            for line in file:
                if line.strip():
                    offsets.append(position)
                position += len(line)
        return offsets

    def _line(self, row: int) -> Any:
        with self.path.open("rb") as file:
            file.seek(self._offsets[row])
            line = file.readline()
            try:
                return json.loads(line)
            except (ValueError, RecursionError) as error:
                file.seek(0)
                number = file.read(self._offsets[row]).count(b"\n") + 1
                raise BadRecordError(f"{self.path} line {number} (row {row}): broken JSON ({error})") from None


def chunk_range(num_rows: int, num_chunks: int, chunk: int) -> tuple[int, int]:
    """Rows [start, stop) of chunk `chunk`; sizes differ by at most one."""
    return chunk * num_rows // num_chunks, (chunk + 1) * num_rows // num_chunks
