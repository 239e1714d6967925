"""The one door to data: whatever files, folders and forms there are, records come out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icons.data.index import known_sha256
from icons.data.json_records import JsonRecords
from icons.data.mixture import Mixture
from icons.data.open_file import OpenFile
from icons.data.parquet import ParquetRecords, files_below, parquet_files
from icons.data.records import Part, Records, files_digest, is_hub_id, part_digest
from icons.data.saved import SavedRecords, is_saved
from icons.errors import UserError

Data = Path | Sequence[Part]
"""A file or folder alone, or the parts of a set."""


def open_records(data: Data, images: Path | None = None) -> Records:
    """The records of a data set; `images` is the image folder of a path given alone.

    Which format a file has is seen by its content: Parquet, JSON lines, or one JSON list; a folder holds Parquet files
    or a dataset that was saved to disk. Raises UserError, with the file, for what cannot be read as a whole.
    """
    parts = [Part(data, images)] if isinstance(data, Path) else list(data)
    members = [_open(part) for part in parts]
    if len(members) == 1 and not parts[0].source:
        return members[0]
    return Mixture(members, parts)


def data_digest(data: Data) -> str:
    """The `sha256` that the records have; without parsing where that can be had, raises as `open_records` does."""
    parts = [Part(data)] if isinstance(data, Path) else list(data)
    digests = [_digest(part) for part in parts]
    return digests[0] if len(digests) == 1 and not parts[0].source else files_digest(digests)


def _digest(part: Part) -> str:
    kind = _kind(part)
    if kind is SavedRecords:
        return _open(part).sha256
    try:
        files = parquet_files(part) if kind is ParquetRecords else [part.path]
        return part_digest([known_sha256(path) or OpenFile.at(path).sha256() for path in files], part)
    except OSError as error:
        raise UserError(f"{part.path}: cannot be read ({error.strerror or error})") from None


def _open(part: Part) -> Records:
    try:
        return _kind(part)(part)
    except ModuleNotFoundError as error:
        raise UserError(f"{part.path}: needs the package {error.name}; pip install 'icons[data]'") from None


def _kind(part: Part) -> type[JsonRecords] | type[ParquetRecords] | type[SavedRecords]:
    path = part.path
    if is_hub_id(path) or is_saved(path):
        return SavedRecords
    try:
        if path.is_dir():
            if not files_below(path):
                raise UserError(f"{path}: a folder without Parquet files, and no dataset saved to disk")
            head = b"PAR1"
        else:
            head = OpenFile.at(path).read(0, 4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    return ParquetRecords if head == b"PAR1" else JsonRecords
