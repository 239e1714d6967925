"""`icons train-grads`: gradient rows of the training data, chunk by chunk."""

from __future__ import annotations

from icons.config import Config
from icons.data.records import Records, chunk_range
from icons.errors import UserError
from icons.progress import say
from icons.stages.inputs import feature_fingerprint, with_data
from icons.store.layout import RunFolder
from icons.store.rows import RowWriter


def train_grads(config: Config, chunk: int | None = None) -> None:
    """Computes chunk `chunk` (counted from 0), or every chunk that is not complete, for each checkpoint."""
    records = open_training_data(config)
    num_chunks = config.train.num_chunks
    if chunk is not None and not 0 <= chunk < num_chunks:
        raise UserError(f"--chunk {chunk}: train.num_chunks is {num_chunks}, so chunks are 0 to {num_chunks - 1}")
    for checkpoint in config.gradients.checkpoints:
        _one_checkpoint(config, records, checkpoint, range(num_chunks) if chunk is None else [chunk])


def open_training_data(config: Config) -> Records:
    records = Records(config.train.data)
    if config.train.num_chunks > len(records):
        raise UserError(
            f"train.num_chunks {config.train.num_chunks} exceeds the {len(records)} records of {records.path}"
        )
    return records


def _one_checkpoint(config: Config, records: Records, checkpoint: int | str, chunks: range | list[int]) -> None:
    from icons.stages.collect import Collector, DataRange

    fingerprint = with_data(feature_fingerprint(config, checkpoint), records.path, len(records))
    folder = RunFolder(config.output_dir)
    collector = Collector(config, checkpoint)
    num_chunks, computed, rows, invalid, seconds = config.train.num_chunks, 0, 0, 0, 0.0
    for chunk in chunks:
        start, stop = chunk_range(len(records), num_chunks, chunk)
        place = folder.chunk(checkpoint, chunk, num_chunks)
        writer = RowWriter(place, start, stop, fingerprint)
        if not writer.manifest.complete:
            title = f"train-grads chunk {chunk} of {num_chunks}"
            collector.collect(DataRange(records, config.train.images, start, stop, place, title), writer)
            computed += 1
        rows += stop - start
        invalid += sum(shard.invalid for shard in writer.manifest.shards)
        seconds += writer.manifest.seconds
    done = f"{computed} of {len(chunks)} chunks computed" if computed else "already done"
    say(f"train-grads {checkpoint}: {rows} rows, {invalid} invalid, {done}, {rows / max(seconds, 1e-9):.1f} samples/s")
