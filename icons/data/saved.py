"""Records of a Hugging Face dataset: one saved to disk (`save_to_disk`), or one of the Hub by its id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.data.images import StoredImage
from icons.data.index import SMALL, open_offsets
from icons.data.open_file import OpenFile
from icons.data.records import HUB, Part, is_hub_id, part_digest
from icons.data.row_groups import State, state_of
from icons.data.tables import TableRecords, columns_of, file_origin, image_of, image_paths, readable_row
from icons.errors import UserError
from icons.plain import in_line


@dataclass(frozen=True)
class SavedImage(StoredImage):
    """An image of a saved dataset."""

    records: SavedRecords
    row: int
    position: int

    def content(self) -> bytes | Path:
        columns = self.records.columns
        cell = self.records.cell(self.row, str(columns.image))
        return image_of(cell, columns, self.position, self.records.part.images, str(self))

    def __str__(self) -> str:
        return f"{self.position} of row {self.row} in {self.records.path}"


class SavedRecords(TableRecords):
    """Raises UserError when there is no such dataset, or several splits and `split` does not say which."""

    def __init__(self, part: Part, expected: str | None = None) -> None:
        self.part, self.path = part, part.path
        of_hub = is_hub_id(part.path)
        self.container = "dataset of the Hub" if of_hub else "dataset on disk"
        with _readable(self.path):
            dataset = _of_hub(part) if of_hub else _of_disk(part)
        # As Arrow, since otherwise every look at a row decodes its images.
        self._dataset = dataset.with_format("arrow")
        if len(dataset) == 0:
            raise UserError(f"{self.path}: holds no records")
        self.columns = columns_of(dataset.data.schema, self.path)
        self._words = self._dataset.select_columns(list(self.columns.text))
        files = [Path(file["filename"]) for file in dataset.cache_files]
        if not files:
            raise UserError(f"{self.path}: lies in memory alone, so that nothing ties results to it; save it to disk")
        self._states: dict[Path, State] = {path: state_of(path) for path in files}
        # Of the Hub a split may be a slice of the files; what was saved to disk is all of its own.
        slices = [f"{part.split} {len(dataset)}"] if of_hub else []
        self.sha256 = part_digest([*(_sha256(path) for path in files), *slices], part)
        self.require_unchanged()
        if expected not in (None, self.sha256):
            raise UserError(f"{self.path}: was replaced by another dataset while it was in use; run again")
        self.form = self._recognised()

    def __reduce__(self) -> tuple[type[SavedRecords], tuple[Part, str]]:
        return SavedRecords, (self.part, self.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SavedRecords) and (self.part, self.sha256) == (other.part, other.sha256)

    def __hash__(self) -> int:
        return hash((self.part, self.sha256))

    def __len__(self) -> int:
        return len(self._dataset)

    def require_unchanged(self) -> None:
        for path, state in self._states.items():
            if not path.is_file() or state_of(path) != state:
                raise UserError(f"{path}: changed while it was read; run again when it is complete")

    def cell(self, row: int, column: str) -> Any:
        """The value of a column in a row, images as they are stored."""
        return self._dataset[row].column(column)[0].as_py()

    def copy_rows(self, rows: Sequence[int], path: Path) -> None:
        """Saves these rows to a new folder."""
        with _readable(path):
            self._dataset.select(list(rows)).with_format(None).save_to_disk(str(path))

    def _text(self, row: int) -> dict[str, Any]:
        with readable_row(self.where(row)):
            fields: list[dict[str, Any]] = self._words[row].to_pylist()
        return fields[0]

    def _paths(self, row: int) -> Sequence[str | None]:
        cell = self.cell(row, str(self.columns.image))
        return image_paths(cell, self.columns, self.where(row))

    def _image(self, row: int, position: int) -> StoredImage:
        return SavedImage(self, row, position)

    def _origin(self, row: int) -> str:
        return self.part.source or file_origin(self.path)


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _of_disk(part: Part) -> Any:
    from datasets import load_from_disk

    folder, splits = part.path, part.path / "dataset_dict.json"
    if splits.is_file():
        folder = part.path / _one_split(part, json.loads(splits.read_text(encoding="utf-8"))["splits"])
    elif part.split is not None:
        raise UserError(f"{part.path}: has no splits; leave split out")
    return load_from_disk(str(folder), keep_in_memory=False)


def _of_hub(part: Part) -> Any:
    from datasets import get_dataset_split_names, load_dataset

    words = str(part.path).removeprefix(HUB).strip("/").split("/")
    name, subset = "/".join(words[:2]), "/".join(words[2:]) or None
    if len(words) < 2 or not all(words):
        raise UserError(f"{part.path}: expected {HUB}owner/name, or {HUB}owner/name/subset")
    if Path(name).exists():  # which `datasets` would take in its place
        raise UserError(f"{part.path}: a folder {name} lies here; name that by its path, or run elsewhere")
    split = part.split or _one_split(part, get_dataset_split_names(name, subset))
    return load_dataset(name, subset, split=split, keep_in_memory=False)


def _one_split(part: Part, splits: Sequence[str]) -> str:
    if part.split is not None and part.split in splits:
        return part.split
    if part.split is None and len(splits) == 1:
        return splits[0]
    what = "holds several splits; say which with split" if part.split is None else f"has no split {part.split!r}"
    raise UserError(f"{part.path}: {what}: {', '.join(splits)}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever `datasets` raises becomes one line."""
    try:
        import datasets

        bars = datasets.utils.logging.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if bars:
                datasets.enable_progress_bars()
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: needs the package {error.name}; pip install 'icons[data]'") from None
    except Exception as error:  # of many kinds: missing files, damaged ones, no network
        raise UserError(f"{path}: cannot be read as a dataset ({in_line(error, 300)})") from None


def _sha256(path: Path) -> str:
    file = OpenFile.at(path)
    return file.sha256() if file.stat().st_size <= SMALL else open_offsets(path, file, "whole").sha256
