"""What an export lies in: JSON, Parquet, a dataset saved to disk, or whatever the input lies in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from icons.data.parquet import ParquetRecords
from icons.data.records import Records
from icons.data.saved import SavedRecords
from icons.errors import UserError

ROWS_A_GROUP = 100
SHARD_BYTES = 1 << 30


def write_json(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON list, a record a line."""
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        for number, row in enumerate(rows):
            file.write(("[\n" if number == 0 else ",\n") + _json(row))
        file.write("\n]\n")


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(_json(row) + "\n")


def _json(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate is legal in JSON, but only escaped
        text = json.dumps(row)
    return text


def write_parquet(folder: Path, rows: Iterator[dict[str, Any]], scores: list[str]) -> None:
    """Files of about 1 GiB with row groups of 100, marked with the features that `datasets` reads them with."""
    import pyarrow.parquet as pq

    schema = features(scores).arrow_schema
    number, writer = 0, None
    try:
        for table in _tables(rows, schema):
            if writer is None or (folder / f"train-{number - 1:05d}.parquet").stat().st_size > SHARD_BYTES:
                if writer is not None:
                    writer.close()
                writer = pq.ParquetWriter(folder / f"train-{number:05d}.parquet", schema, write_page_checksum=True)
                number += 1
            writer.write_table(table, row_group_size=ROWS_A_GROUP)
    finally:
        if writer is not None:
            writer.close()


def write_saved(folder: Path, rows: Iterator[dict[str, Any]], scores: list[str]) -> None:
    """A dataset as `save_to_disk` leaves it, which `load_from_disk` reads."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    kinds, scratch = features(scores), folder.with_name(".scratch")
    scratch.mkdir()
    with ArrowWriter(path=str(scratch / "rows.arrow"), features=kinds, writer_batch_size=ROWS_A_GROUP) as writer:
        for row in rows:
            writer.write(kinds.encode_example(row))
        writer.finalize()
    datasets.disable_progress_bars()
    datasets.Dataset.from_file(str(scratch / "rows.arrow")).save_to_disk(str(folder))
    shutil.rmtree(scratch)


def _tables(rows: Iterator[dict[str, Any]], schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    while batch := list(islice(rows, ROWS_A_GROUP)):
        yield pa.Table.from_pylist(batch, schema=schema)


def features(scores: list[str]) -> Any:
    """The columns of messages of parts, and those of the selection with these tasks' scores; [] without them."""
    from datasets import Features, Image, List, Value

    part = {"type": Value("string"), "text": Value("string")}
    columns: dict[str, Any] = {
        "id": Value("string"),
        "source": Value("string"),
        "messages": List({"role": Value("string"), "content": List(part)}),
        "images": List(Image()),
    }
    if scores:
        columns |= {"weight": Value("int8"), "votes": Value("int32"), "value": Value("float64")}
        columns["scores"] = {task: Value("float32") for task in scores}
    return Features(columns)


def write_own(records: Records, rows: list[int], folder: Path) -> str:
    """The rows in the input's own container and form, unchanged; the name of what was written in `folder`.

    Raises UserError for a mixture of several.
    """
    if records.is_json:
        write_json(folder / "data.json", (records.raw(row) for row in rows))
        return "data.json"
    if isinstance(records, ParquetRecords):
        records.copy_rows(rows, folder / "train-00000.parquet")
        return "train-00000.parquet"
    if isinstance(records, SavedRecords):
        records.copy_rows(rows, folder / "dataset")
        return "dataset"
    raise UserError(
        f"{records.path}: parts of several forms, containers or image folders have no one format of their own; say "
        "which with --format"
    )
