"""Batches of samples: images decoded, ids padded, by worker processes ahead of the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from icons.data.batching import plan_batches
from icons.data.images import load_image, pixel_values
from icons.data.samples import BadRecord, InputFormat, Sample
from icons.data.templates import IGNORE
from icons.errors import BadRecordError


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

    def pin_memory(self) -> Batch:
        """Called by the DataLoader when it is asked to pin."""
        pixels = None if self.pixel_values is None else self.pixel_values.pin_memory()
        return replace(self, input_ids=self.input_ids.pin_memory(), pixel_values=pixels)

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


Made = tuple[Batch | None, list[BadRecord]]
"""A batch of the samples that can be used (None without any), and those whose image cannot be read."""


def make_batch(samples: Sequence[Sample], inputs: InputFormat) -> Made:
    """Decodes each distinct image once and pads."""
    pixels: dict[Path, Tensor] = {}
    usable: list[Sample] = []
    bad: list[BadRecord] = []
    for sample in samples:
        try:
            if sample.image is not None and sample.image not in pixels:
                values = pixel_values(load_image(sample.image), inputs.image_processor)
                pixels[sample.image] = torch.from_numpy(np.ascontiguousarray(values))
            usable.append(sample)
        except BadRecordError as error:
            bad.append(BadRecord(sample.row, f"{sample.where}: {error}"))
    return (_collate(usable, pixels, inputs.pad_token_id) if usable else None), bad


def load_batches(
    samples: Sequence[Sample], inputs: InputFormat, tokens_per_batch: int, num_workers: int = 0, *, pin: bool = False
) -> Iterator[Made]:
    """Batches of neighbours in length in a fixed order, made by `num_workers` processes ahead of the caller.

    With `pin` their tensors lie in page-locked memory, from which a copy to a GPU waits for nothing.
    """
    plan = plan_batches([sample.length for sample in samples], tokens_per_batch)
    yield from DataLoader(
        _PlannedBatches([[samples[position] for position in batch] for batch in plan], inputs),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        pin_memory=pin,
    )


def with_readable_images(samples: Sequence[Sample]) -> tuple[list[Sample], list[BadRecord]]:
    """The samples whose image can be decoded, and the others; each distinct image is tried once."""
    problems: dict[Path, str | None] = {}
    usable: list[Sample] = []
    bad: list[BadRecord] = []
    for sample in samples:
        if sample.image is not None and sample.image not in problems:
            problems[sample.image] = _problem(sample.image)
        problem = problems[sample.image] if sample.image is not None else None
        if problem is None:
            usable.append(sample)
        else:
            bad.append(BadRecord(sample.row, f"{sample.where}: {problem}"))
    return usable, bad


def _problem(path: Path) -> str | None:
    try:
        load_image(path)
    except BadRecordError as error:
        return str(error)
    return None


def _collate(samples: list[Sample], pixels: dict[Path, Tensor], pad_token_id: int) -> Batch:
    length = max(sample.length for sample in samples)
    input_ids = torch.full((len(samples), length), pad_token_id)
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


class _PlannedBatches(Dataset[Made]):
    """What the worker processes hold: the plan and how to make a batch of it, not the data file."""

    def __init__(self, plan: list[list[Sample]], inputs: InputFormat) -> None:
        self.plan = plan
        self.inputs = replace(inputs, tokenizer=None)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Made:
        return make_batch(self.plan[index], self.inputs)
