"""Records that lie in Arrow tables: which columns are text and which images, and how a row becomes a record."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.data.forms import form_of, in_llava_form, unknown_form
from icons.data.images import ImageSource, StoredImage, image_source
from icons.data.records import Part, Records
from icons.data.row_groups import IMAGE_COLUMNS
from icons.errors import BadRecordError, UserError
from icons.plain import in_line, quoted

_SHARD = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True)
class Columns:
    """`text` are read whole for every row; `image` is the column whose images lie in it as bytes, None without one.

    `listed`: a row has a list of images. `bare`: an image is its bytes alone, without a path beside them.
    """

    text: tuple[str, ...]
    image: str | None
    listed: bool = False
    bare: bool = False


def columns_of(schema: Any, path: Path) -> Columns:
    """Of a pyarrow Schema; times and decimals are not read. UserError for bytes in a column that is not read."""
    import pyarrow as pa

    text: list[str] = []
    image: tuple[str, bool, bool] | None = None
    for field in schema:
        listed = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        kind = field.type.value_type if listed else field.type
        bare = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        embedded = pa.types.is_struct(kind) and "bytes" in {each.name for each in kind}
        if field.name in IMAGE_COLUMNS and (bare or embedded):
            if image is not None:
                raise UserError(f"{path}: both {image[0]} and {field.name} hold images; expected one of them")
            image = field.name, listed, bare
        elif _holds_bytes(field.type):
            raise UserError(
                f"{path}: column {quoted(field.name)} holds bytes ({quoted(str(field.type), 60)}); images are read "
                "from image or images, as binary, {bytes, path}, or a list of these; other media are not supported"
            )
        elif not (pa.types.is_temporal(field.type) or pa.types.is_decimal(field.type)):
            text.append(field.name)
    return Columns(tuple(text), *image) if image else Columns(tuple(text), None)


def _holds_bytes(kind: Any) -> bool:
    """Whether a type is one of bytes, or has one somewhere within."""
    import pyarrow as pa

    types = pa.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if types.is_binary_view(kind):
        return True
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return any(_holds_bytes(kind.field(at).type) for at in range(kind.num_fields))


@contextmanager
def readable_row(where: str) -> Iterator[None]:
    """A value that cannot be had as Python's becomes a bad record: text that is no UTF-8, a number out of range."""
    try:
        yield
    except BadRecordError:
        raise
    except (ValueError, OverflowError, ArithmeticError, OSError) as error:
        raise BadRecordError(f"{where}: a value cannot be read ({in_line(error, 200)})") from None


def image_paths(cell: Any, columns: Columns, where: str) -> list[str | None]:
    """Of each image in an image column's value the path beside it; BadRecordError for an empty place in a list."""
    values = (cell or []) if columns.listed else [] if cell is None else [cell]
    for at, value in enumerate(values):
        if value is None:
            raise BadRecordError(f"{where}: image {at} of {len(values)} is empty")
    return [value.get("path") if isinstance(value, dict) else None for value in values]


class TableRecords(Records):
    """What Parquet files and saved datasets have in common; `columns` is set when it is opened."""

    columns: Columns
    part: Part
    paths_only = False
    """Whether its images are paths in the place where bytes could be."""

    @abstractmethod
    def _text(self, row: int) -> dict[str, Any]:
        """The text columns of a row; BadRecordError, which names it, when they cannot be read."""

    @abstractmethod
    def _paths(self, row: int) -> Sequence[str | None]:
        """Of each embedded image of a row the path beside it."""

    @abstractmethod
    def _image(self, row: int, position: int) -> StoredImage: ...

    @abstractmethod
    def _origin(self, row: int) -> str:
        """What a row comes from, where it does not say so itself."""

    def __getitem__(self, row: int) -> dict[str, Any]:
        row = range(len(self))[row]
        record = {key: value for key, value in self._text(row).items() if value is not None}
        if self.columns.image and (paths := self._paths(row)):
            names = [self._name(row, at, path) for at, path in enumerate(paths)]
            record[self.columns.image] = names if self.columns.listed else names[0]
        try:
            record = in_llava_form(self.form, record)
        except BadRecordError as error:
            raise BadRecordError(f"{self.where(row, record)}: {error}") from None
        source = record.get("source") or record.get("data_source")
        return {**record, "source": source if isinstance(source, str) and source else self._origin(row)}

    def _name(self, row: int, position: int, path: str | None) -> str:
        """A name of its own for every image: the path beside its bytes may be that of others too."""
        if self.paths_only and path:
            return path
        return f"{self.path.name}#{row}/{position}" + (f":{path}" if path else "")

    def image(self, row: int, position: int, name: str) -> ImageSource:
        if self.columns.image is None:
            return image_source(self.part.images, name)
        return self._image(row, position)

    def image_key(self, row: int, position: int, name: str) -> str:
        if self.columns.image is None or self.paths_only:
            return name
        content = self._image(row, position).content()
        return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else name

    def _recognised(self) -> str:
        """By the columns, and by the keys of the first rows' turns."""
        if self.part.format:
            return self.part.format
        for row in range(min(10, len(self))):
            try:
                fields = self._text(row)
                if form := form_of(fields):
                    return form
            except ValueError as error:
                raise UserError(f"{self.path}: {error}") from None
            except BadRecordError:
                continue
            raise UserError(f"{self.path}: {unknown_form(fields)}")
        raise UserError(f"{self.path}: none of the first rows can be read; is the file complete?")


def image_of(cell: Any, columns: Columns, position: int, folder: Path | None, where: str) -> bytes | Path:
    """The image at `position` of an image column's value: its bytes, or the file that its path names.

    Raises BadRecordError, which says `where`, when there is neither.
    """
    value = cell[position] if columns.listed else cell
    content, path = (value, None) if columns.bare else ((value or {}).get("bytes"), (value or {}).get("path"))
    if content is not None:
        return bytes(content)
    if path:
        found = image_source(folder, path)
        return found.content() if isinstance(found, StoredImage) else found
    raise BadRecordError(f"{where} has neither bytes nor a path")


def file_origin(path: Path) -> str:
    """A file's name without ending and shard number, what its records come from if nothing else is said."""
    return _SHARD.sub("", path.stem)
