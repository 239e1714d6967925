"""`icons train-grads`: gradient rows of the training data, chunk by chunk, on one device or on all of them."""

from __future__ import annotations

from icons.config import Config
from icons.data.records import Records
from icons.errors import UserError
from icons.progress import say
from icons.stages.specialist.chunks import (
    chunk_writer,
    compute_chunk,
    open_training_data,
    refuse_skipped,
    require_same_chunks,
)
from icons.stages.specialist.fingerprints import train_fingerprint
from icons.store.fingerprint import Fingerprint
from icons.store.layout import RunFolder
from icons.store.rows import read_manifest


def train_grads(config: Config, chunk: int | None = None) -> None:
    """Computes chunk `chunk` (counted from 0), or every chunk that is not complete, for each checkpoint.

    Without `chunk` one worker process per device takes the next missing chunk (see `workers`); with a single device
    the work is done here.
    """
    records = open_training_data(config)
    num_chunks = config.train.num_chunks
    if chunk is not None and not 0 <= chunk < num_chunks:
        raise UserError(f"--chunk {chunk}: train.num_chunks is {num_chunks}, so chunks are 0 to {num_chunks - 1}")
    for checkpoint in config.gradients.checkpoints:
        require_same_chunks(config, checkpoint)
        fingerprint = train_fingerprint(config, checkpoint, records)
        chunks = list(range(num_chunks)) if chunk is None else [chunk]
        writers = {i: chunk_writer(config, checkpoint, i, records, fingerprint) for i in chunks}
        refuse_skipped(config, writers.values())
        missing = [i for i, writer in writers.items() if not writer.manifest.complete]
        if missing:
            _compute(config, checkpoint, missing, records, fingerprint, alone=chunk is not None)
        _report(config, checkpoint, chunks, missing, records, fingerprint)


def time_left(config: Config) -> str:
    """`, about 3.2 h`: all rows that are missing, at the rate at which the tasks' rows were computed; empty without."""
    from icons.stages.specialist.workers import devices

    folder, rows, seconds = RunFolder(config.output_dir), 0, 0.0
    for task in config.tasks:
        manifest = read_manifest(folder.task(config.gradients.checkpoints[-1], task.name))
        rows, seconds = rows + (manifest.rows_done if manifest else 0), seconds + (manifest.seconds if manifest else 0)
    chunks = config.train.num_chunks
    done = [
        read_manifest(folder.chunk(checkpoint, chunk, chunks))
        for checkpoint in config.gradients.checkpoints
        for chunk in range(chunks)
    ]
    total = len(open_training_data(config)) * len(config.gradients.checkpoints)
    missing = total - sum(manifest.rows_done for manifest in done if manifest)
    if not rows or not missing:
        return ""
    left = missing * seconds / rows / min(len(devices(config)), chunks)
    if left < 90:
        return f", about {left:.0f} s"
    return f", about {left / 60:.0f} min" if left < 5400 else f", about {left / 3600:.1f} h"


def _compute(
    config: Config, checkpoint: int | str, chunks: list[int], records: Records, fingerprint: Fingerprint, *, alone: bool
) -> None:
    from icons.stages.specialist.extractor import Extractor
    from icons.stages.specialist.workers import devices, in_workers

    places = devices(config)
    if alone or len(places) == 1 or len(chunks) == 1:
        extractor = Extractor(config, checkpoint, "train", fingerprint)
        for chunk in chunks:
            compute_chunk(extractor, chunk, records, fingerprint)
    else:
        in_workers(config, checkpoint, fingerprint, chunks, places[: len(chunks)])


def _report(
    config: Config,
    checkpoint: int | str,
    chunks: list[int],
    computed: list[int],
    records: Records,
    fingerprint: Fingerprint,
) -> None:
    manifests = [chunk_writer(config, checkpoint, chunk, records, fingerprint).manifest for chunk in chunks]
    rows = sum(manifest.stop - manifest.start for manifest in manifests)
    invalid = sum(shard.invalid for manifest in manifests for shard in manifest.shards)
    seconds = sum(manifest.seconds for manifest in manifests)
    done = f"{len(computed)} of {len(chunks)} chunks computed" if computed else "already done"
    rate = f"{rows / max(seconds, 1e-9):.1f} samples/s a device"
    say(f"train-grads {checkpoint}: {rows} rows, {invalid} invalid, {done}, {rate}")
