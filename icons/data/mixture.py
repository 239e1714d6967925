"""Several data files as one set, one behind the other in the order of the config."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icons.data.images import ImageSource
from icons.data.records import Part, Records, files_digest
from icons.data.tables import file_origin


class Mixture(Records):
    """Rows count through; a record that does not say its `source` gets the name of its file."""

    def __init__(self, members: Sequence[Records], parts: Sequence[Part]) -> None:
        self.members, self._parts, self._starts = list(members), list(parts), list[int]()
        rows = 0
        for member in self.members:
            member.first = rows if len(self.members) > 1 else None
            self._starts.append(rows)
            rows += len(member)
        self._rows = rows
        first, more = self.members[0].path, len(self.members) - 1
        self.path = Path(f"{first} and {more} more") if more else first
        self.form = " + ".join(dict.fromkeys(member.form for member in self.members))
        self.container = " + ".join(dict.fromkeys(member.container for member in self.members))
        self.sha256 = files_digest([member.sha256 for member in self.members])

    def __reduce__(self) -> tuple[type[Mixture], tuple[list[Records], list[Part]]]:
        return Mixture, (self.members, self._parts)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        number, own = self._find(row)
        record = self.members[number][own]
        if isinstance(record.get("source"), str) and record["source"]:
            return record
        part = self._parts[number]
        return {**record, "source": part.source or file_origin(part.path)}

    @property
    def is_json(self) -> bool:
        one_form = (
            len({(member.form, part.images) for member, part in zip(self.members, self._parts, strict=True)}) == 1
        )
        return one_form and all(member.is_json for member in self.members)

    def raw(self, row: int) -> dict[str, Any]:
        number, own = self._find(row)
        return self.members[number].raw(own)

    def image(self, row: int, position: int, name: str) -> ImageSource:
        number, own = self._find(row)
        return self.members[number].image(own, position, name)

    def image_key(self, row: int, position: int, name: str) -> str:
        number, own = self._find(row)
        return self.members[number].image_key(own, position, name)

    def require_unchanged(self) -> None:
        for member in self.members:
            member.require_unchanged()

    def where(self, row: int, record: dict[str, Any] | None = None) -> str:
        number, own = self._find(row)
        return self.members[number].where(own, record)

    def _find(self, row: int) -> tuple[int, int]:
        """The member that holds a row, and its number there."""
        row = range(self._rows)[row]
        number = bisect_right(self._starts, row) - 1
        return number, row - self._starts[number]
