"""Records of a JSON file: one list, or JSON lines.

Of a large file only the records that are asked for are read, through its offset index (see `index`); a small JSON list
is parsed at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from icons.data.forms import form_of, in_llava_form, unknown_form
from icons.data.images import ImageSource, image_source
from icons.data.index import SMALL, StoredOffsets, offsets_in_memory, open_offsets
from icons.data.open_file import OpenFile
from icons.data.records import Part, Records, part_digest
from icons.data.scan import Kind
from icons.errors import BadRecordError, UserError

LLAVA_KEYS = {"conversations", "image", "images", "id"}
_LOOKED_AT = 10  # records from the front, of which the first that can be read tells the form


class JsonRecords(Records):
    """Raises UserError when the file as a whole cannot be used: unreadable, empty, broken JSON (with the line), not a
    list, of an unknown form, or of another SHA-256 than `expected` where that is given. A single broken line of a
    JSON-lines file raises BadRecordError when that record is asked for.
    """

    def __init__(self, part: Part, expected: str | None = None) -> None:
        path, self.part = part.path, part
        self.path = path
        if part.split is not None:
            raise UserError(f"{path}: a JSON file has no splits; leave split out")
        try:
            self._file = OpenFile.at(path)
            self._state = self._file.state()
            head = self._file.read(0, 4096)
            text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
            self.sha256 = ""
            lines = text.startswith(b"{")
            self.container = "JSON lines" if lines else "JSON list"
            self._length, self._get = self._open_lines(text) if lines else self._open_list(head)
            self.sha256 = part_digest([self.sha256 or self._file.sha256()], part)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
        self.require_unchanged()
        if self._length == 0:
            raise UserError(f"{path}: holds no records")
        if expected not in (None, self.sha256):
            raise UserError(f"{path}: was replaced by another file while it was in use; run again")
        self.form = part.format or self._recognised()

    def __reduce__(self) -> tuple[type[JsonRecords], tuple[Part, str]]:
        return JsonRecords, (self.part, self.sha256)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        record = self.raw(row)
        try:
            return in_llava_form(self.form, record)
        except BadRecordError as error:
            raise BadRecordError(f"{self.where(row, record)}: {error}") from None

    @property
    def is_json(self) -> bool:
        return True

    def raw(self, row: int) -> dict[str, Any]:
        row = range(self._length)[row]
        try:
            record = self._get(row)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        if not isinstance(record, dict):
            raise BadRecordError(f"{self.where(row)}: expected an object, found {type(record).__name__}")
        return record

    def image(self, row: int, position: int, name: str) -> ImageSource:
        return image_source(self.part.images, name)

    def require_unchanged(self) -> None:
        if self._file.state() != self._state:
            raise UserError(f"{self.path}: changed while it was read; run again when it is complete")

    def _recognised(self) -> str:
        """By the first record that can be read."""
        for row in range(min(_LOOKED_AT, self._length)):
            try:
                record = self.raw(row)
                if form := form_of(record):
                    return form
            except BadRecordError:
                continue
            except ValueError as error:
                raise UserError(f"{self.path}: {error}") from None
            if record and not record.keys() & LLAVA_KEYS:
                raise UserError(f"{self.path}: {unknown_form(record)}")
            break
        return "llava"  # what is wrong with its records is said of each

    def _open_lines(self, head: bytes) -> tuple[int, Callable[[int], Any]]:
        large = self._file.stat().st_size > SMALL
        offsets = self._stored_offsets("lines") if large else offsets_in_memory(self._file, "lines")

        def line(row: int) -> Any:
            # Up to the next record there may be blank lines.
            content = self._file.read(offsets[row], offsets[row + 1]).partition(b"\n")[0]
            try:
                return json.loads(content)
            except (ValueError, RecursionError) as error:
                number = sum(block.count(b"\n") for block in self._file.blocks(0, offsets[row])) + 1
                raise BadRecordError(f"{self.path} line {number} (row {row}): broken JSON ({error})") from None

        if len(offsets) > 2:
            self._refuse_one_object(head)
        return len(offsets) - 1, line

    def _open_list(self, head: bytes) -> tuple[int, Callable[[int], Any]]:
        if self._file.stat().st_size <= SMALL or b"\0" in head:  # zero bytes: UTF-16 or UTF-32, which is rare
            return self._open_parsed()
        try:
            offsets = self._stored_offsets("list")
        except (ValueError, RecursionError):
            return self._open_parsed()  # which says what is wrong, and where
        decode = json.JSONDecoder().raw_decode

        def element(row: int) -> Any:
            content = self._file.read(offsets[row], offsets[row + 1])
            try:
                return decode(content.decode("utf-8", "surrogatepass"))[0]
            except ValueError as error:
                raise UserError(f"{self.path}: changed since it was opened ({error}); run again") from None

        return len(offsets) - 1, element

    def _stored_offsets(self, kind: Kind) -> StoredOffsets:
        offsets = open_offsets(self.path, self._file, kind)
        self.sha256 = offsets.sha256
        return offsets

    def _open_parsed(self) -> tuple[int, Callable[[int], Any]]:
        records = self._parse_list(b"".join(self._file.blocks()))
        return len(records), records.__getitem__

    def _parse_list(self, content: bytes) -> list[Any]:
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
