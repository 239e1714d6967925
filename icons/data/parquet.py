"""Records of Parquet files: one, or all of a folder as one set; images as bytes within them, or as paths."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.data.images import StoredImage
from icons.data.records import Part, called, part_digest
from icons.data.row_groups import ParquetFile, open_parquet
from icons.data.tables import Columns, TableRecords, columns_of, file_origin, image_of, image_paths, readable_row
from icons.errors import BadRecordError, UserError
from icons.plain import in_line

_SPLIT = re.compile(r"^(.+?)-\d+-of-\d+(-[0-9a-f]+)?$")


@dataclass(frozen=True)
class ParquetImage(StoredImage):
    """An image in a row group: `row` counts within the file, `place` within the group."""

    file: ParquetFile
    group: int
    row: int
    place: int
    position: int
    columns: Columns
    folder: Path | None

    def content(self) -> bytes | Path:
        assert self.columns.image is not None
        table = self.file.columns(self.group, (self.columns.image,))
        return image_of(table.column(0)[self.place].as_py(), self.columns, self.position, self.folder, str(self))

    def __str__(self) -> str:
        return f"{self.position} of row {self.row} (row group {self.group}) in {self.file.path}"


@dataclass(frozen=True)
class _Group:
    """A row group: of which file, its number there, the row of the file and of the set that it begins with."""

    file: ParquetFile
    number: int
    first: int
    start: int
    path_leaf: str | None


class ParquetRecords(TableRecords):
    """Raises UserError for a file that is no Parquet, whose columns differ from the first one's, or that holds bytes in
    a column that is not read.
    """

    container = "Parquet"

    def __init__(self, part: Part, expected: str | None = None) -> None:
        self.part, self.path = part, part.path
        paths = parquet_files(part)
        groups: list[_Group] = []
        digests: list[str] = []
        rows, self.paths_only = 0, True
        for path in paths:
            file, (footer, schema), sha256 = open_parquet(path)
            columns = columns_of(schema, path)
            if path is paths[0]:
                self.columns = columns
            elif (columns.image, columns.listed, columns.bare) != (
                self.columns.image, self.columns.listed, self.columns.bare
            ) or set(columns.text) != set(self.columns.text):  # fmt: skip
                raise UserError(
                    f"{path}: its columns are not those of {paths[0].name}; give them as parts of their own"
                )
            digests.append(sha256)
            first = 0
            with _whole_footer(path):
                path_leaf = _leaf(footer, self.columns.image, "path")
                bytes_leaf = _leaf(footer, self.columns.image, "bytes")
                for number in range(footer.num_row_groups):
                    group = footer.row_group(number)
                    groups.append(_Group(file, number, first, rows, path_leaf))
                    first, rows = first + group.num_rows, rows + group.num_rows
                    self.paths_only &= bytes_leaf is not None and _all_null(group, bytes_leaf)
        self._groups, self._rows = [g for g in groups if g.start < rows], rows
        self._starts = [group.start for group in self._groups]
        if rows == 0:
            raise UserError(f"{self.path}: holds no records")
        self._several = len({path.parent for path in paths}) > 1
        self.sha256 = part_digest(digests, part)
        if expected not in (None, self.sha256):
            raise UserError(f"{self.path}: was replaced by another file while it was in use; run again")
        self.form = self._recognised()

    def __reduce__(self) -> tuple[type[ParquetRecords], tuple[Part, str]]:
        return ParquetRecords, (self.part, self.sha256)

    def __len__(self) -> int:
        return self._rows

    def require_unchanged(self) -> None:
        for file in {group.file for group in self._groups}:
            file.require_unchanged()

    def where(self, row: int, record: dict[str, Any] | None = None) -> str:
        group, place = self._find(row)
        inside = "" if group.file.path == self.path or self.first is not None else f" ({row} of all)"
        return f"{group.file.path} row {group.first + place}{inside}{self.of_all(row)}{called(record)}"

    def copy_rows(self, rows: Sequence[int], path: Path) -> None:
        """Writes these rows (ascending) to a new file, all columns as they are, the schema of the first file."""
        import pyarrow.parquet as pq

        by_group: dict[int, list[int]] = {}
        for row in rows:
            number = bisect_right(self._starts, row) - 1
            by_group.setdefault(number, []).append(row - self._starts[number])
        writer = None
        for number, places in by_group.items():
            group = self._groups[number]
            table = group.file.columns(group.number, None).take(places)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, write_page_checksum=True)
            try:
                table = table.select(writer.schema.names).cast(writer.schema)
            except (ValueError, KeyError) as error:
                raise UserError(
                    f"{group.file.path}: its columns are not of the types of {self._groups[0].file.path.name} "
                    f"({in_line(error, 200)}); say another form with --format"
                ) from None
            writer.write_table(table, row_group_size=100)
        if writer is not None:
            writer.close()

    def _find(self, row: int) -> tuple[_Group, int]:
        """The group of a row, and its place in it."""
        group = self._groups[bisect_right(self._starts, row) - 1]
        return group, row - group.start

    def _text(self, row: int) -> dict[str, Any]:
        return self._row(row, self.columns.text)

    def _row(self, row: int, columns: tuple[str, ...]) -> dict[str, Any]:
        group, place = self._find(row)
        try:
            with readable_row(self.where(row)):
                fields: list[dict[str, Any]] = group.file.columns(group.number, columns).slice(place, 1).to_pylist()
        except BadRecordError as error:
            if str(error).startswith(self.where(row)):
                raise
            raise BadRecordError(f"{self.where(row)}: {str(error).removeprefix(f'{group.file.path}: ')}") from None
        return fields[0]

    def _paths(self, row: int) -> Sequence[str | None]:
        name = str(self.columns.image)
        cell = self._row(row, (self._find(row)[0].path_leaf or name,))[name]
        return image_paths(cell, self.columns, self.where(row))

    def _image(self, row: int, position: int) -> StoredImage:
        group, place = self._find(row)
        return ParquetImage(
            group.file, group.number, group.first + place, place, position, self.columns, self.part.images
        )

    def _origin(self, row: int) -> str:
        file = self._find(row)[0].file.path
        if self.part.source:
            return self.part.source
        return file.parent.name if self._several else file_origin(file if file == self.path else self.path)


def parquet_files(part: Part) -> list[Path]:
    """The file, or those below a folder in the order of their paths, of one split.

    Raises UserError when the folder holds several splits and `split` does not say which, or none of that name.
    """
    if not part.path.is_dir():
        if part.split is not None:
            raise UserError(f"{part.path}: one file has no splits; leave split out")
        return [part.path]
    found = files_below(part.path)
    splits: dict[str, list[Path]] = {}
    for path in found:
        splits.setdefault(_split_of(path), []).append(path)
    if part.split is not None:
        if part.split not in splits:
            known = ", ".join(sorted(name for name in splits if name)) or "no splits"
            raise UserError(f"{part.path}: no split {part.split!r}; there are {known}")
        return splits[part.split]
    named = sorted(name for name in splits if name)
    if len(named) > 1:
        raise UserError(f"{part.path}: holds the splits {', '.join(named)}; say which with split")
    return found


def files_below(folder: Path) -> list[Path]:
    """Every *.parquet file below a folder, links followed, what is hidden left out, in the order of the paths.

    Raises UserError for a folder that links lead into itself.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            raise UserError(f"{place}: a link leads back to {real}, which is below {folder} already")
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if name.endswith(".parquet") and not name.startswith(".")]
    return sorted(found)


@contextmanager
def _whole_footer(path: Path) -> Iterator[None]:
    """What pyarrow raises of a damaged footer becomes one line."""
    try:
        yield
    except (ValueError, OSError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({in_line(error, 200)})") from None


def _split_of(path: Path) -> str:
    """By the names that the Hub gives: train-00000-of-00012.parquet, train.parquet, train/0000.parquet; "" without."""
    named = _SPLIT.match(path.stem)
    names = [named.group(1)] if named else [name for name in (path.stem, path.parent.name) if name in _SPLITS]
    return names[0] if names else ""


_SPLITS = ("train", "training", "validation", "valid", "val", "dev", "eval", "evaluation", "test", "testing")


def _leaf(footer: Any, column: str | None, name: str) -> str | None:
    """The dotted path of a field `name` within a column, as Parquet has it: images.list.element.path."""
    leaves = [footer.schema.column(number).path for number in range(footer.num_columns)]
    own = (leaf for leaf in leaves if column and leaf.startswith(f"{column}.") and leaf.endswith(f".{name}"))
    return next(own, None)


def _all_null(group: Any, leaf: str) -> bool:
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == leaf:
            statistics = column.statistics
            return bool(statistics is not None and statistics.has_null_count and statistics.num_values == 0)
    return False
