"""One chunk of the training data: which rows it is, where they are written, and computing what is missing of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from icons.config import Config
from icons.data.records import Records, chunk_range
from icons.data.sets import open_records
from icons.errors import UserError
from icons.store.fingerprint import Fingerprint
from icons.store.layout import RunFolder
from icons.store.lock import only_one_process
from icons.store.rows import RowWriter

if TYPE_CHECKING:
    from icons.stages.specialist.extractor import Extractor


def open_training_data(config: Config) -> Records:
    """The training records; a UserError when there are fewer of them than chunks."""
    records = open_records(config.train.parts)
    if config.train.num_chunks > len(records):
        raise UserError(
            f"train.num_chunks {config.train.num_chunks} exceeds the {len(records)} records of {records.path}"
        )
    return records


def require_same_chunks(config: Config, checkpoint: int | str) -> None:
    """Raises UserError when there are rows in another number of chunks: all of them would be computed again."""
    folder, asked = RunFolder(config.output_dir).train(checkpoint), config.train.num_chunks
    for path in sorted(folder.glob("chunk-*-of-*/manifest.json")):
        match = re.fullmatch(r"chunk-\d+-of-(\d+)", path.parent.name)
        if match and int(match[1]) != asked:
            raise UserError(
                f"{folder} has rows in {int(match[1])} chunks, and train.num_chunks is {asked}, which would compute "
                f"all of them again; set it back to {int(match[1])}, or delete {folder} first"
            )


def chunk_writer(
    config: Config, checkpoint: int | str, chunk: int, records: Records, fingerprint: Fingerprint
) -> RowWriter:
    start, stop = chunk_range(len(records), config.train.num_chunks, chunk)
    folder = RunFolder(config.output_dir).chunk(checkpoint, chunk, config.train.num_chunks)
    return RowWriter(folder, start, stop, fingerprint)


def refuse_skipped(config: Config, writers: Iterable[RowWriter]) -> None:
    """With `on_bad_record: error`, raises UserError for rows that an earlier run with `skip` left out."""
    if config.on_bad_record == "skip":
        return
    for writer in writers:
        for bad in writer.manifest.bad_records:
            raise UserError(
                f"an earlier run skipped {bad['reason']}; delete {writer.folder} to compute its rows again, "
                "or set on_bad_record: skip"
            )


def compute_chunk(
    extractor: Extractor, chunk: int, records: Records, fingerprint: Fingerprint, *, quiet: bool = False
) -> None:
    """Computes what is missing of one chunk in this process."""
    from icons.stages.specialist.collect import DataRange, collect

    config = extractor.config
    title = "" if quiet else f"train-grads chunk {chunk} of {config.train.num_chunks}"
    with only_one_process(RunFolder(config.output_dir).chunk(extractor.checkpoint, chunk, config.train.num_chunks)):
        writer = chunk_writer(config, extractor.checkpoint, chunk, records, fingerprint)
        start, stop = writer.manifest.start, writer.manifest.stop
        collect(extractor, DataRange(records, start, stop, title), writer)
