"""Records: what every kind of data file is read as, in LLaVA's form; which images they show, and where each lies."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icons.plain import quoted

if TYPE_CHECKING:  # the config imports this file, and --help starts without NumPy and Pillow
    from icons.data.images import ImageSource


@dataclass(frozen=True)
class Part:
    """One file or folder of a data set, as the config names it.

    `images` is the folder that its image paths are relative to. `format` and `split` are None where the content
    decides. `source` is what its records come from, where they don't say so themselves.
    """

    path: Path
    images: Path | None = None
    format: str | None = None
    split: str | None = None
    source: str | None = None


class Records(ABC):
    """Random access to the records of a data set, in any thread and after a fork; it can be pickled.

    `path` is what messages call it, `sha256` (hex) that of what was opened, whatever its name stands for afterwards;
    `form` is how its records are written (`icons.data.forms`), `container` what they lie in, both for a person.
    """

    path: Path
    sha256: str
    form: str
    container: str
    first: int | None = None
    """As a part of a larger set: the row of the set that is its row 0."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, row: int) -> dict[str, Any]:
        """The record in LLaVA's form; BadRecordError, which names file and row, where it cannot be read as one."""

    @property
    def is_json(self) -> bool:
        """Whether `raw` gives every record as it stands in a JSON file, images relative to one folder."""
        return False

    def raw(self, row: int) -> dict[str, Any]:
        """The record as its file has it, where `is_json`; raises as reading it does."""
        raise NotImplementedError

    @abstractmethod
    def image(self, row: int, position: int, name: str) -> ImageSource:
        """The image that stands at `position` of the record, under `name`; BadRecordError when it can lie nowhere."""

    def image_key(self, row: int, position: int, name: str) -> str:
        """What an image is known by when records are compared: its name, or a digest of bytes that lie in the data."""
        return name

    @abstractmethod
    def require_unchanged(self) -> None:
        """Raises UserError when something was written into a file since it was opened."""

    def where(self, row: int, record: dict[str, Any] | None = None) -> str:
        """`file row 12 (id 'x')`, the way every message about a record begins."""
        return f"{self.path} row {row}{self.of_all(row)}{called(record)}"

    def of_all(self, row: int) -> str:
        """` (812 of all)`: the row's number in the set that these records are a part of."""
        return "" if self.first is None else f" ({self.first + row} of all)"


HUB = "hf:"
"""How the id of a dataset begins: hf:owner/name, hf:owner/name/subset."""


def is_hub_id(path: Path) -> bool:
    """Whether a path of the config is no path but the id of a dataset of the Hub."""
    return str(path).startswith(HUB)


def part_digest(files: Sequence[str], part: Part) -> str:
    """Hex SHA-256 of a part: that of its file, or of its files' SHA-256 and the format that the config says."""
    if len(files) == 1 and part.format is None:
        return files[0]
    return hashlib.sha256(json.dumps([list(files), part.format]).encode()).hexdigest()


def files_digest(digests: Sequence[str]) -> str:
    """Hex SHA-256 of several parts as one set."""
    return hashlib.sha256(json.dumps(list(digests)).encode()).hexdigest()


def called(record: dict[str, Any] | None) -> str:
    """` (id 'x')` of a record that has one."""
    name = record.get("id") if isinstance(record, dict) else None
    return f" (id {quoted(name, 80)})" if name is not None else ""


def chunk_range(num_rows: int, num_chunks: int, chunk: int) -> tuple[int, int]:
    """Rows [start, stop) of chunk `chunk`; sizes differ by at most one."""
    return chunk * num_rows // num_chunks, (chunk + 1) * num_rows // num_chunks
