"""Copies: records with the same pictures and the same conversation, of which one teaches what all do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


class Copies:
    """Counts, of the records shown to it in order, those whose content was there before."""

    def __init__(self) -> None:
        self._first: dict[bytes, int] = {}
        self.of: dict[int, int] = {}
        """Row of a copy -> the row that it repeats."""

    def see(self, row: int, record: Mapping[str, Any]) -> None:
        images = record.get("image") if record.get("image") is not None else record.get("images")
        content = repr((images, _said(record.get("conversations"))))
        first = self._first.setdefault(hashlib.blake2b(content.encode(), digest_size=16).digest(), row)
        if first != row:
            self.of[row] = first

    @property
    def rows(self) -> list[int]:
        return sorted(self.of)


def _said(turns: Any) -> Any:
    """Speakers and words alone: white space at the ends and keys beside them make no other record."""
    if not isinstance(turns, list):
        return turns
    return [[t.get("from"), str(t.get("value")).strip()] if isinstance(t, Mapping) else t for t in turns]
