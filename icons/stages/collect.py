"""Gradient rows of a range of records, shard by shard: what train-grads and val-grads share."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icons.config import Config
from icons.data.records import Records
from icons.data.samples import BadRecord, Batch, DataSource
from icons.errors import BadRecordError, UserError
from icons.gradients.lora import LoraPair
from icons.gradients.per_sample import GradientRows, gradient_rows
from icons.gradients.projection import Projector, make_projector
from icons.models.loading import attach_adapter, load_base
from icons.models.vlm import VisionLanguageModel
from icons.progress import Progress
from icons.store.files import Array
from icons.store.layout import RunFolder
from icons.store.rows import Manifest, RowWriter


@dataclass(frozen=True)
class DataRange:
    """Rows [start, stop) of an opened data file, and the folder its rows go to."""

    records: Records
    images: Path | None
    start: int
    stop: int
    folder: Path
    title: str


class Collector:
    """Computes gradient rows with one checkpoint's adapter; the model is loaded when the first row needs it."""

    def __init__(self, config: Config, checkpoint: int | str) -> None:
        self.config = config
        self.adapter = RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter)

    @cached_property
    def model(self) -> VisionLanguageModel:
        return attach_adapter(load_base(self.config.model), self.adapter)

    @cached_property
    def pairs(self) -> list[LoraPair]:
        return self.model.lora_pairs()

    @cached_property
    def projector(self) -> Projector:
        settings = self.config.gradients
        return make_projector(settings.projection, settings.dim, settings.seed)

    @property
    def num_workers(self) -> int:
        chosen = self.config.gradients.num_workers
        if chosen is not None:
            return chosen
        return 0 if self.model.device.type == "cpu" else min(8, max(1, (os.cpu_count() or 2) - 1))

    def collect(self, data: DataRange, writer: RowWriter) -> Manifest:
        """Computes and writes the shards that are not there yet.

        Raises BadRecordError for the first record that cannot be used (unless `on_bad_record: skip`) and UserError
        when a loss or a gradient is not finite; finished shards stay.
        """
        source = DataSource(data.records, data.images, self.model.inputs)
        total, done = data.stop - data.start, writer.manifest.next_row - data.start
        with Progress(data.title, total, done) as progress:
            for start, stop in writer.windows(self.config.gradients.shard_rows):
                begin = time.monotonic()
                tensors, bad = self._shard(source, start, stop, progress)
                invalid = int((~tensors["valid"]).sum())
                named = [{"row": record.row, "reason": record.reason} for record in bad]
                writer.append(tensors, start, stop, invalid, named, time.monotonic() - begin)
        return writer.manifest

    def _shard(
        self, source: DataSource, start: int, stop: int, progress: Progress
    ) -> tuple[dict[str, Array], list[BadRecord]]:
        samples, bad = source.samples(range(start, stop))
        self._refuse(bad)
        tensors = _empty_shard(start, stop, self.config.gradients.dim)
        progress.advance(len(bad))
        for batch, unreadable in source.batches(samples, self.config.gradients.tokens_per_batch, self.num_workers):
            self._refuse(unreadable)
            bad += unreadable
            if batch is not None:
                self._fill(tensors, start, batch, source)
            progress.advance(len(unreadable) + (len(batch.rows) if batch else 0))
        return tensors, sorted(bad, key=lambda record: record.row)

    def _fill(self, tensors: dict[str, Array], start: int, batch: Batch, source: DataSource) -> None:
        model = self.model
        rows = gradient_rows(
            self.pairs,
            lambda: model.hidden_states(batch),
            model.head,
            batch.labels.to(model.device),
            self.projector,
        )
        finite = torch.isfinite(rows.losses_B) & torch.isfinite(rows.norms_B)
        if not bool(finite.all()):
            row = batch.rows[int((~finite).nonzero()[0])]
            where = source.records.where(row, source.records[row])
            raise UserError(
                f"{where}: the loss or its gradient is not a finite number; "
                "check the weights for NaN, or use model.dtype bfloat16 or float32"
            )
        _store(tensors, np.array(batch.rows) - start, rows)

    def _refuse(self, bad: list[BadRecord]) -> None:
        if bad and self.config.on_bad_record == "error":
            more = f" (and {len(bad) - 1} more here)" if len(bad) > 1 else ""
            raise BadRecordError(
                f"{bad[0].reason}{more}; mend it, or set on_bad_record: skip; `icons validate` lists them all"
            )


def _empty_shard(start: int, stop: int, dim: int) -> dict[str, Array]:
    count = stop - start
    return {
        "rows": np.arange(start, stop, dtype=np.int64),
        "grads": np.zeros((count, dim), np.float16),
        "norms": np.zeros(count, np.float32),
        "losses": np.zeros(count, np.float32),
        "target_tokens": np.zeros(count, np.int32),
        "valid": np.zeros(count, np.bool_),
    }


def _store(tensors: dict[str, Array], at: Any, rows: GradientRows) -> None:
    tensors["grads"][at] = rows.unit_BD.half().cpu().numpy()
    tensors["norms"][at] = rows.norms_B.cpu().numpy()
    tensors["losses"][at] = rows.losses_B.cpu().numpy()
    tensors["target_tokens"][at] = rows.target_tokens_B.cpu().numpy()
    tensors["valid"][at] = True
