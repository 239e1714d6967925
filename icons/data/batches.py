"""Batches of samples: images decoded, ids padded, by worker processes ahead of the device."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from icons.data.batching import plan_batches
from icons.data.formats import ImageInputs, InputFormat
from icons.data.images import ImageSource, load_image
from icons.data.samples import BadRecord, Sample
from icons.data.tokens import IGNORE
from icons.errors import BadRecordError


@dataclass(frozen=True)
class Batch:
    """Right-padded: input_ids [B, T], labels [B, T] already shifted (what each position is to predict).

    `images` holds each distinct image once; `image_index` says which of them each sample shows, in its order.
    """

    rows: list[int]
    lengths: list[int]
    input_ids: Tensor
    labels: Tensor
    images: list[ImageInputs]
    image_index: list[tuple[int, ...]]

    def pin_memory(self) -> Batch:
        """Called by the DataLoader when it is asked to pin."""
        images: list[ImageInputs] = [
            {name: tensor.pin_memory() for name, tensor in image.items()} for image in self.images
        ]
        return replace(self, input_ids=self.input_ids.pin_memory(), images=images)

    @property
    def padded_tokens(self) -> int:
        return self.input_ids.numel()

    def part(self, start: int, stop: int) -> Batch:
        """Samples [start, stop) as a batch of their own, with no more padding and images than they need."""
        longest = max(self.lengths[start:stop])
        shown = sorted({index for positions in self.image_index[start:stop] for index in positions})
        place = {index: position for position, index in enumerate(shown)}
        return Batch(
            rows=self.rows[start:stop],
            lengths=self.lengths[start:stop],
            input_ids=self.input_ids[start:stop, :longest],
            labels=self.labels[start:stop, :longest],
            images=[self.images[index] for index in shown],
            image_index=[tuple(place[index] for index in positions) for positions in self.image_index[start:stop]],
        )

    @property
    def shown_images(self) -> list[ImageInputs]:
        """The images in the order of the samples, one that several samples show as often as it is shown."""
        return [self.images[index] for positions in self.image_index for index in positions]


Made = tuple[Batch | None, list[BadRecord]]
"""A batch of the samples that can be used (None without any), and those whose image cannot be read."""


def make_batch(samples: Sequence[Sample], inputs: InputFormat) -> Made:
    """Decodes each distinct image once and pads."""
    images: dict[ImageSource, ImageInputs] = {}
    usable: list[Sample] = []
    bad: list[BadRecord] = []
    for sample in samples:
        try:
            for path in sample.images:
                if path not in images:
                    images[path] = inputs.image_inputs(path)
            usable.append(sample)
        except BadRecordError as error:
            bad.append(BadRecord(sample.row, f"{sample.where}: {error}"))
    return (_collate(usable, images, inputs.pad_token_id) if usable else None), bad


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
        worker_init_fn=one_tokenizer_thread,
        pin_memory=pin,
    )


def one_tokenizer_thread(worker: int) -> None:
    """For a DataLoader's forked processes, where the tokenizer's threads are not: it would wait for them for ever.

    Ctrl-C strikes them too; the process that started them decides when they end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def with_readable_images(samples: Sequence[Sample], inputs: InputFormat) -> tuple[list[Sample], list[BadRecord]]:
    """The samples whose images can be decoded and resized, and the others; each distinct image is tried once."""
    problems: dict[ImageSource, str | None] = {}
    usable: list[Sample] = []
    bad: list[BadRecord] = []
    for sample in samples:
        for path in sample.images:
            if path not in problems:
                problems[path] = _problem(path, inputs)
        problem = next((problems[path] for path in sample.images if problems[path]), None)
        if problem is None:
            usable.append(sample)
        else:
            bad.append(BadRecord(sample.row, f"{sample.where}: {problem}"))
    return usable, bad


def _problem(path: ImageSource, inputs: InputFormat) -> str | None:
    try:
        load_image(path, inputs.require_size)
    except BadRecordError as error:
        return str(error)
    return None


def stack_images(images: Sequence[ImageInputs]) -> dict[str, Tensor]:
    """All images' inputs joined along the first axis, by name; the other axes filled up with zeros where they differ.

    That is how processors batch images of several sizes (patches in one row, or tiles up to the most that one has).
    """
    stacked: dict[str, Tensor] = {}
    for name in images[0] if images else ():
        tensors = [image[name] for image in images]
        largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        stacked[name] = torch.cat([_filled_up(tensor, largest) for tensor in tensors])
    return stacked


def _filled_up(tensor: Tensor, shape: list[int]) -> Tensor:
    missing = [0 if extent == full else full - extent for extent, full in zip(tensor.shape[1:], shape, strict=True)]
    return F.pad(tensor, [each for size in reversed(missing) for each in (0, size)]) if any(missing) else tensor


def _collate(samples: list[Sample], images: dict[ImageSource, ImageInputs], pad_token_id: int) -> Batch:
    length = max(sample.length for sample in samples)
    input_ids = torch.full((len(samples), length), pad_token_id)
    labels = torch.full((len(samples), length), IGNORE)
    for index, sample in enumerate(samples):
        input_ids[index, : sample.length] = torch.tensor(sample.tokens.ids[: sample.length])
        labels[index, : sample.length] = torch.tensor(sample.tokens.labels[1 : sample.length + 1])
    shown = {path for sample in samples for path in sample.images}
    place = {path: index for index, path in enumerate(path for path in images if path in shown)}
    return Batch(
        rows=[sample.row for sample in samples],
        lengths=[sample.length for sample in samples],
        input_ids=input_ids,
        labels=labels,
        images=[images[path] for path in place],
        image_index=[tuple(place[path] for path in sample.images) for sample in samples],
    )


class _PlannedBatches(Dataset[Made]):
    """What the worker processes hold: the plan and how to make a batch of it, not the data file."""

    def __init__(self, plan: list[list[Sample]], inputs: InputFormat) -> None:
        self.plan = plan
        self.inputs = inputs.for_images()

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Made:
        return make_batch(self.plan[index], self.inputs)
