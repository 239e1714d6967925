"""Which samples' images can be decoded: tried before the training, by several processes, not at step 40,000."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch.utils.data import DataLoader, Dataset

from icons.data.batches import with_readable_images
from icons.data.formats import InputFormat
from icons.data.samples import BadRecord, Sample
from icons.progress import Progress
from icons.training.sampler import has_image

SAMPLES_AT_ONCE = 64
WORTH_A_PROCESS = 1024  # samples; fewer are decoded sooner than processes start


def unreadable(samples: Sequence[Sample], inputs: InputFormat, title: str, processes: int = 1) -> list[BadRecord]:
    """The samples whose image cannot be decoded, in their order; no title: silent.

    Decodes in up to 8 processes, `processes` of this machine doing the same.
    """
    pieces = _Pieces([sample for sample in samples if has_image(sample)], inputs.for_images())
    cores = (os.cpu_count() or 1) // processes
    workers = min(8, cores) if cores > 1 and len(pieces) * SAMPLES_AT_ONCE > WORTH_A_PROCESS else 0
    bad: list[BadRecord] = []
    with Progress(title, len(pieces.samples), unit="images") as progress:
        for size, refused in DataLoader(pieces, batch_size=None, num_workers=workers):
            bad += refused
            progress.advance(size)
    return bad


class _Pieces(Dataset[tuple[int, list[BadRecord]]]):
    def __init__(self, samples: list[Sample], inputs: InputFormat) -> None:
        self.samples, self.inputs = samples, inputs

    def __len__(self) -> int:
        return -(-len(self.samples) // SAMPLES_AT_ONCE)

    def __getitem__(self, index: int) -> tuple[int, list[BadRecord]]:
        piece = self.samples[index * SAMPLES_AT_ONCE : (index + 1) * SAMPLES_AT_ONCE]
        return len(piece), with_readable_images(piece, self.inputs)[1]
