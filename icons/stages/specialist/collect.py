"""Rows of a range of records, shard by shard: what train-grads and val-grads share.

The next shard is tokenised and images are decoded while the device computes; a shard is written while the next one is
under way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from icons.data.batches import Batch, load_batches
from icons.data.records import Records
from icons.data.samples import BadRecord, DataSource, Sample
from icons.errors import BadRecordError, UserError
from icons.gradients.rows import Rows
from icons.machine import this_machine
from icons.progress import Progress
from icons.stages.specialist.extractor import Extractor
from icons.stop import finishing, leave_if_asked
from icons.store.files import Array
from icons.store.heartbeat import Heartbeat
from icons.store.rows import Manifest, RowWriter


@dataclass(frozen=True)
class DataRange:
    """Rows [start, stop) of an opened data set."""

    records: Records
    start: int
    stop: int
    title: str


def collect(extractor: Extractor, data: DataRange, writer: RowWriter) -> Manifest:
    """Computes and writes the shards that are not there yet.

    Raises BadRecordError for the first record that cannot be used (unless `on_bad_record: skip`) and UserError when a
    loss or a gradient is not finite; finished shards stay. Asked to stop, it finishes the shard under way if there is
    time for it, drops it otherwise, and raises Stopped.
    """
    leave_if_asked()
    total, done = data.stop - data.start, writer.manifest.rows_done
    with Heartbeat(writer.folder, total, done) as beat:
        extractor.prepare()
        writer.computes_on(this_machine(extractor.model.device))
        with Progress(data.title, total, done) as progress, finishing():

            def advance(count: int) -> None:
                progress.advance(count)
                beat.advance(count)

            _compute_shards(extractor, data, writer, advance)
    return writer.manifest


def _compute_shards(extractor: Extractor, data: DataRange, writer: RowWriter, advance: Callable[[int], None]) -> None:
    source = DataSource(data.records, extractor.model.inputs)
    windows = list(writer.windows(extractor.config.gradients.shard_rows))
    written: Future[None] | None = None
    with ThreadPoolExecutor(1) as background, ThreadPoolExecutor(1) as ahead:
        for (start, stop), (samples, bad) in zip(windows, _encoded(source, windows, ahead), strict=True):
            leave_if_asked()
            begin = time.monotonic()
            tensors = _shard(extractor, source, start, stop, samples, bad, advance)
            if written is not None:
                written.result()
            data.records.require_unchanged()
            written = background.submit(_write, writer, tensors, start, stop, bad, time.monotonic() - begin)
        if written is not None:
            written.result()


def _encoded(
    source: DataSource, windows: list[tuple[int, int]], ahead: ThreadPoolExecutor
) -> Iterator[tuple[list[Sample], list[BadRecord]]]:
    """Each window's samples, tokenised in a thread one window ahead."""
    coming: Future[tuple[list[Sample], list[BadRecord]]] | None = None
    for number in range(len(windows)):
        current = coming or ahead.submit(source.samples, range(*windows[number]))
        later = windows[number + 1 : number + 2]
        coming = ahead.submit(source.samples, range(*later[0])) if later else None
        yield current.result()


def _write(
    writer: RowWriter, tensors: dict[str, Array], start: int, stop: int, bad: list[BadRecord], seconds: float
) -> None:
    invalid = int((~tensors["valid"]).sum())
    listed = [{"row": record.row, "reason": record.reason} for record in sorted(bad, key=lambda record: record.row)]
    writer.append(tensors, start, stop, invalid, listed, seconds)


def _shard(
    extractor: Extractor,
    source: DataSource,
    start: int,
    stop: int,
    samples: list[Sample],
    bad: list[BadRecord],
    advance: Callable[[int], None],
) -> dict[str, Array]:
    """The arrays of one shard; records that turn out bad on the way are added to `bad`."""
    _refuse(extractor, bad)
    tensors = extractor.empty_shard(start, stop)
    advance(len(bad))
    waiting: tuple[Batch, Callable[[], Rows]] | None = None
    begin, done, count = time.monotonic(), len(bad), stop - start
    on_gpu, workers = extractor.model.device.type == "cuda", extractor.image_processes
    for batch, unreadable in load_batches(samples, source.inputs, extractor.tokens_per_batch, workers, pin=on_gpu):
        _refuse(extractor, unreadable)
        bad += unreadable
        advance(len(unreadable))
        for part, rows in extractor.rows(batch) if batch else ():
            # Sent at once and looked at one batch late, when a GPU has its next work: it is never waited for idle.
            leaving = extractor.leaving(rows)
            if waiting is not None:
                _fill(extractor, source, tensors, start, *waiting)
            waiting = part, leaving
            advance(len(part.rows))
            done += len(part.rows)
            leave_if_asked((time.monotonic() - begin) / done * (count - done))
    if waiting is not None:
        _fill(extractor, source, tensors, start, *waiting)
    return tensors | extractor.take_sums()


def _fill(
    extractor: Extractor,
    source: DataSource,
    tensors: dict[str, Array],
    start: int,
    batch: Batch,
    arrived: Callable[[], Rows],
) -> None:
    rows = arrived()
    finite = torch.isfinite(rows.losses.mean_B) & torch.isfinite(rows.norms_B)
    if not bool(finite.all()):
        row = batch.rows[int((~finite).nonzero()[0])]
        where = source.records.where(row, source.records[row])
        raise UserError(f"{where}: the loss or its gradient is not a finite number; check the weights for NaN")
    extractor.fill(tensors, np.array(batch.rows) - start, rows)


def _refuse(extractor: Extractor, bad: list[BadRecord]) -> None:
    if bad and extractor.config.on_bad_record == "error":
        more = f" (and {len(bad) - 1} more here)" if len(bad) > 1 else ""
        raise BadRecordError(
            f"{bad[0].reason}{more}; mend it, or set on_bad_record: skip; `icons validate` lists them all"
        )
