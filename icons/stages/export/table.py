"""`icons table`: one row a record, with what the run knows about it, for spreadsheets, R and data frames."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from icons.atomic import new_file
from icons.config import Config
from icons.data.records import Records
from icons.data.source import record_source
from icons.errors import BadRecordError, UserError
from icons.progress import Progress, say
from icons.stages.generalist.select import cast, open_scores, open_training
from icons.store.files import Array
from icons.store.layout import RunFolder
from icons.store.scores import Scores
from icons.store.selection import StoredSelection, read_selection, selection_names

ROWS_AT_ONCE = 10_000
ENDINGS = (".csv", ".parquet")


def table(config: Config, out: Path) -> None:
    """Writes `out`, a CSV or a Parquet file by its ending, with a row for every record of the training data.

    Columns: `row`, `id`, `source`, `valid`, `votes`, a `score_TASK` for each column of the scores, `loss`, `norm`, and
    a `selected_NAME` for each selection of the run; `valid` and `selected_NAME` are 0 or 1. A row that is not valid has
    no scores, loss and norm; a record that cannot be read has no id and source.

    Raises UserError when `out` is there already or has another ending, and when scores, selections and data are damaged
    or do not belong together. Selections of other scores are left out, and named.
    """
    _require_possible(out)
    scores = open_scores(config)
    records = open_training(config, scores)
    folder = RunFolder(config.output_dir)
    every = [read_selection(folder.selection(name)) for name in selection_names(folder.selections)]
    known = [selection for selection in every if selection.head.get("scores") == scores.fingerprint]
    rows = _Rows(records, scores, cast(config, scores), known)
    with new_file(out) as file:
        (_write_csv if out.suffix == ".csv" else _write_parquet)(file, rows)
        records.require_unchanged()
    say(f"table: {len(scores.valid)} rows, {len(rows.kinds)} columns, {len(known)} selections, written to {out}")
    if stale := [selection.name for selection in every if selection not in known]:
        say(f"  ! left out, as they were made of other scores: {', '.join(stale)}")
    if rows.unreadable.count:
        say(f"  ! {rows.unreadable.count} records cannot be read, the first: {rows.unreadable.first}")


def _require_possible(out: Path) -> None:
    if out.suffix not in ENDINGS:
        raise UserError(f"{out}: expected a name that ends with {' or '.join(ENDINGS)}")
    if out.exists():
        raise UserError(f"{out} is there already; choose another name, or delete it")
    if out.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(f"{out}: Parquet needs the package pyarrow; pip install 'icons[data]'") from None


@dataclass
class _Unreadable:
    count: int = 0
    first: str = ""  # what is wrong with it


@dataclass(frozen=True)
class _Rows:
    records: Records
    scores: Scores
    votes: Array
    selections: list[StoredSelection]
    unreadable: _Unreadable = field(default_factory=_Unreadable)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Column -> type, in Arrow's words."""
        kinds = {"row": "int64", "id": "string", "source": "string", "valid": "int8", "votes": "int16"}
        kinds |= {f"score_{task}": "float32" for task in self.scores.columns}
        kinds |= {"loss": "float32", "norm": "float32"}
        return kinds | {f"selected_{selection.name}": "int8" for selection in self.selections}

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Column -> values of at most ROWS_AT_ONCE rows: lists of text, arrays of numbers, masked where unknown."""
        scores, count = self.scores, len(self.scores.valid)
        with Progress("table", count, unit="records") as progress:
            for start in range(0, count, ROWS_AT_ONCE):
                part = slice(start, min(start + ROWS_AT_ONCE, count))
                unknown = ~scores.valid[part]
                names = [self._named(row) for row in range(part.start, part.stop)]
                numbers = [*scores.scores[part].T, scores.losses[part], scores.norms[part]]
                columns = [
                    np.arange(part.start, part.stop),
                    [name for name, _ in names],
                    [source for _, source in names],
                    scores.valid[part].astype(np.int8),
                    self.votes[part],
                    *(np.ma.masked_array(array, unknown) for array in numbers),
                    *(selection.selected[part].astype(np.int8) for selection in self.selections),
                ]
                yield dict(zip(self.kinds, columns, strict=True))
                progress.advance(part.stop - part.start)

    def _named(self, row: int) -> tuple[str | None, str | None]:
        try:
            record = self.records[row]
        except BadRecordError as error:
            self.unreadable.count += 1
            self.unreadable.first = self.unreadable.first or str(error)
            return None, None
        name = record.get("id")
        return None if name is None else _writable(str(name)), _writable(record_source(record))


def _writable(text: str) -> str:
    """As UTF-8 can have it: a lone surrogate, which JSON may hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _write_csv(path: Path, rows: _Rows) -> None:
    """Every number with as many digits as give the same float32 back; what is unknown is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows.kinds)
        for block in rows.blocks():
            writer.writerows(zip(*(_texts(column) for column in block.values()), strict=True))


def _texts(column: Any) -> list[Any]:
    if isinstance(column, list):
        return column
    texts = np.ma.getdata(column).astype(str).astype(object)
    texts[np.ma.getmaskarray(column)] = ""
    written: list[Any] = texts.tolist()
    return written


def _write_parquet(path: Path, rows: _Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in rows.kinds.items()])
    with pq.ParquetWriter(path, schema) as writer:
        for block in rows.blocks():
            arrays = [
                pa.array(np.ma.getdata(column), type=field.type, mask=np.ma.getmaskarray(column))
                if isinstance(column, np.ndarray)
                else pa.array(column, type=field.type)
                for column, field in zip(block.values(), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
