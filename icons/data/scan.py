"""Where the records of a JSON file begin, found in one pass over its bytes, whatever its size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["lines", "list", "whole"]
Offsets = npt.NDArray[np.int64]

_BLANK = np.isin(np.arange(256), np.frombuffer(b" \t\n\r\x0b\x0c", np.uint8))
_NEWLINE = 0x0A
_JSON_BLANKS = re.compile(r"[ \t\n\r]*")
_AT_ONCE = 4096  # offsets


def record_offsets(kind: Kind, blocks: Iterator[bytes]) -> Iterator[Offsets]:
    """Byte offsets of the records in ascending order, some at a time; the very last one is where the last record ends.

    Of a `whole` file there are none; it is read to its end. Of JSON lines every line that is not blank is a record,
    looked into or not. A JSON list is parsed whole, element by element; ValueError (or RecursionError) when it is not
    one well-formed list in UTF-8.
    """
    if kind == "whole":
        return (np.empty(0, np.int64) for _ in blocks)
    return _lines(blocks) if kind == "lines" else _elements(_Text(blocks))


def _lines(blocks: Iterator[bytes]) -> Iterator[Offsets]:
    position = 0
    waiting: int | None = 0  # start of a line of which only blanks have been seen; None within a record
    for block in blocks:
        values = np.frombuffer(block, np.uint8)
        newlines = np.flatnonzero(values == _NEWLINE)
        first = int(newlines[0]) if len(newlines) else len(block)
        starts_so_far = np.empty(0, np.int64)
        if waiting is not None and block[:first].strip():
            starts_so_far, waiting = np.array([waiting], np.int64), None
        if len(newlines):
            starts, stops = newlines + 1, np.append(newlines[1:], len(block))
            filled = np.zeros(len(starts), np.bool_)
            inside = starts < len(block)
            filled[inside] = ~_BLANK[values[starts[inside]]]
            for index in np.flatnonzero(~filled):
                filled[index] = bool(block[starts[index] : stops[index]].strip())
            waiting = None if filled[-1] else position + int(starts[-1])
            starts_so_far = np.concatenate([starts_so_far, position + starts[filled]])
        yield starts_so_far
        position += len(block)
    yield np.array([position], np.int64)


class _Text:
    """The part of a UTF-8 file that is being looked at, as text, and where in the file a character of it lies."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""
        self.text, self.complete = "", False
        self._mark, self._mark_byte, self._ascii = 0, 0, True

    def extend(self, keep: int) -> int:
        """Drops what lies before character `keep`, reads on; returns where `keep` is now (0)."""
        self.byte(keep)
        kept = self.text[keep:]
        # As much again as is kept: an element of many blocks is parsed a few times, not once a block.
        pieces, size = [self._rest], 0
        while size <= len(kept):
            block = next(self._blocks, None)
            if block is None:
                self.complete = True
                break
            pieces.append(block)
            size += len(block)
        raw = b"".join(pieces)
        stop = len(raw) if self.complete else _whole_characters(raw)
        self._rest = raw[stop:]
        self.text = kept + raw[:stop].decode("utf-8", "surrogatepass")  # as json.loads decodes bytes
        self._mark, self._ascii = 0, self.text.isascii()
        return 0

    def byte(self, at: int) -> int:
        """The byte offset of character `at`; to be asked in ascending order."""
        between = at - self._mark
        if not self._ascii:
            between = len(self.text[self._mark : at].encode("utf-8", "surrogatepass"))
        self._mark, self._mark_byte = at, self._mark_byte + between
        return self._mark_byte

    def skip_blanks(self, at: int) -> int:
        """The next character from `at` on that is no JSON whitespace; the text's length at the end of the file."""
        while True:
            blanks = _JSON_BLANKS.match(self.text, at)
            at = blanks.end() if blanks else at
            if at < len(self.text) or self.complete:
                return at
            at = self.extend(at)


def _whole_characters(raw: bytes) -> int:
    """Length of the longest part of `raw` that surely ends with a whole UTF-8 character."""
    for stop in range(len(raw), max(0, len(raw) - 4), -1):
        if raw[stop - 1] < 0x80:
            return stop
        if raw[stop - 1] >= 0xC0:
            return stop - 1
    return len(raw)


def _elements(window: _Text) -> Iterator[Offsets]:
    at = 0
    while not window.text and not window.complete:
        window.extend(0)
    if window.text.startswith("\ufeff"):
        at = 1
    at = window.skip_blanks(at)
    if window.text[at : at + 1] != "[":
        raise ValueError("not a list")
    at = window.skip_blanks(at + 1)
    elements: list[int] = []
    decode = json.JSONDecoder().raw_decode
    closed = window.text[at : at + 1] == "]"
    while not closed:
        elements.append(window.byte(at))
        while True:
            try:
                end = decode(window.text, at)[1]
            except ValueError:
                if window.complete:
                    raise
                at = window.extend(at)
                continue
            # A number may go on in what is not read yet: only a delimiter in sight ends an element.
            blanks = _JSON_BLANKS.match(window.text, end)
            end = blanks.end() if blanks else end
            delimiter = window.text[end : end + 1]
            if delimiter in {",", "]"} or window.complete:
                break
            at = window.extend(at)
        if delimiter not in {",", "]"}:
            raise ValueError("no delimiter")
        closed = delimiter == "]"
        at = end if closed else window.skip_blanks(end + 1)
        if len(elements) == _AT_ONCE:
            yield np.array(elements, np.int64)
            elements = []
    yield np.array([*elements, window.byte(at)], np.int64)
    if window.skip_blanks(at + 1) < len(window.text):
        raise ValueError("text after the list")
