"""Rows of a data file as the model takes them: encoded, planned into batches, images decoded ahead of the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icons.data.batching import plan_batches
from icons.data.conversation import Conversation, parse_record
from icons.data.images import image_path, load_image, pixel_values
from icons.data.records import Records
from icons.data.templates import IGNORE, Tokens, encode, expand_image
from icons.errors import BadRecordError


@dataclass(frozen=True)
class InputFormat:
    """What turns a record into the model's inputs; everything here comes with the model folder and the config."""

    tokenizer: Any
    image_processor: Any
    image_token_id: int
    num_image_tokens: int
    pad_token_id: int
    max_length: int


@dataclass(frozen=True)
class Sample:
    """One usable row: ids and labels up to the last label, the image's tokens in place, and where its image lies."""

    row: int
    tokens: Tokens
    image: Path | None
    length: int  # positions the model has to see: all but the last label's own


@dataclass(frozen=True)
class BadRecord:
    row: int
    reason: str  # begins with file, row and record id


@dataclass(frozen=True)
class Batch:
    """Right-padded: input_ids [B, T], labels [B, T] already shifted (what each position is to predict).

    pixel_values [I, 3, H, W] holds each distinct image once; image_index [B] says whose is whose (-1: text only).
    """

    rows: list[int]
    lengths: list[int]
    input_ids: Tensor
    labels: Tensor
    pixel_values: Tensor | None
    image_index: list[int]

    @property
    def padded_tokens(self) -> int:
        return self.input_ids.numel()

    def part(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) as a batch of their own, with no more padding and images than they need."""
        longest = max(self.lengths[start:stop])
        images = sorted({index for index in self.image_index[start:stop] if index >= 0})
        place = {index: position for position, index in enumerate(images)} | {-1: -1}
        return Batch(
            rows=self.rows[start:stop],
            lengths=self.lengths[start:stop],
            input_ids=self.input_ids[start:stop, :longest],
            labels=self.labels[start:stop, :longest],
            pixel_values=self.pixel_values[images] if self.pixel_values is not None and images else None,
            image_index=[place[index] for index in self.image_index[start:stop]],
        )


@dataclass(frozen=True)
class DataSource:
    """One data file with its image folder and the format to encode it in."""

    records: Records
    images: Path | None
    inputs: InputFormat

    def samples(self, rows: Sequence[int]) -> tuple[list[Sample], list[BadRecord]]:
        """Encodes rows (no image is opened); those that cannot be used come back as BadRecords, in row order."""
        parsed: list[tuple[int, Conversation]] = []
        bad: list[BadRecord] = []
        for row in rows:
            record: dict[str, Any] | None = None
            try:
                record = self.records[row]
                parsed.append((row, parse_record(record)))
            except BadRecordError as error:
                bad.append(self._bad(row, record, error))
        samples: list[Sample] = []
        encoded = encode([conversation for _, conversation in parsed], self.inputs.tokenizer) if parsed else []
        for (row, conversation), tokens in zip(parsed, encoded, strict=True):
            try:
                samples.append(self._sample(row, conversation, tokens))
            except BadRecordError as error:
                bad.append(self._bad(row, self.records[row], error))
        return samples, sorted(bad, key=lambda record: record.row)

    def _sample(self, row: int, conversation: Conversation, tokens: Tokens) -> Sample:
        inputs = self.inputs
        image = image_path(self.images, conversation.image) if conversation.image else None
        full = expand_image(tokens, inputs.image_token_id, inputs.num_image_tokens, inputs.max_length)
        length = max(position for position, label in enumerate(full.labels) if label != IGNORE)
        used = Tokens(full.ids[: length + 1], full.labels[: length + 1])
        if inputs.image_token_id not in used.ids:
            image = None  # it stands behind the last answer, where nothing learns from it
        return Sample(row, used, image, length)

    def _bad(self, row: int, record: dict[str, Any] | None, error: BadRecordError) -> BadRecord:
        where = self.records.where(row, record)
        message = str(error)
        return BadRecord(row, message if message.startswith(str(self.records.path)) else f"{where}: {message}")

    def batches(
        self, samples: Sequence[Sample], tokens_per_batch: int, num_workers: int = 0
    ) -> Iterator[tuple[Batch | None, list[BadRecord]]]:
        """Batches in a fixed order, decoded by `num_workers` processes ahead of the caller, with their bad images."""
        plan = plan_batches([sample.length for sample in samples], tokens_per_batch)
        dataset = _PlannedBatches(self, [[samples[position] for position in batch] for batch in plan])
        yield from torch.utils.data.DataLoader(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=4 if num_workers else None,
        )

    def batch(self, samples: Sequence[Sample]) -> tuple[Batch | None, list[BadRecord]]:
        """One batch with its images decoded; samples whose image cannot be read are left out and returned as bad."""
        pixels: dict[Path, Tensor] = {}
        usable: list[Sample] = []
        bad: list[BadRecord] = []
        for sample in samples:
            try:
                if sample.image is not None and sample.image not in pixels:
                    values = pixel_values(load_image(sample.image), self.inputs.image_processor)
                    pixels[sample.image] = torch.from_numpy(np.ascontiguousarray(values))
                usable.append(sample)
            except BadRecordError as error:
                bad.append(self._bad(sample.row, self.records[sample.row], error))
        return (self._collate(usable, pixels) if usable else None), bad

    def _collate(self, samples: list[Sample], pixels: dict[Path, Tensor]) -> Batch:
        length = max(sample.length for sample in samples)
        input_ids = torch.full((len(samples), length), self.inputs.pad_token_id)
        labels = torch.full((len(samples), length), IGNORE)
        for index, sample in enumerate(samples):
            input_ids[index, : sample.length] = torch.tensor(sample.tokens.ids[: sample.length])
            labels[index, : sample.length] = torch.tensor(sample.tokens.labels[1 : sample.length + 1])
        place = {path: index for index, path in enumerate(pixels)}
        return Batch(
            rows=[sample.row for sample in samples],
            lengths=[sample.length for sample in samples],
            input_ids=input_ids,
            labels=labels,
            pixel_values=torch.stack(list(pixels.values())) if pixels else None,
            image_index=[-1 if sample.image is None else place[sample.image] for sample in samples],
        )


class _PlannedBatches(torch.utils.data.Dataset[tuple[Batch | None, list[BadRecord]]]):
    def __init__(self, source: DataSource, plan: list[list[Sample]]) -> None:
        self.source = source
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> tuple[Batch | None, list[BadRecord]]:
        return self.source.batch(self.plan[index])
