"""The order of an epoch: steps of one modality and of neighbours in length, in a seeded random order.

LLaVA-1.5 (arXiv 2310.03744) groups its batches by modality, so that no step waits for the vision tower of a few
samples; grouping by length as well saves padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from icons.data.samples import Sample

STEPS_SORTED = 50
"""Steps whose samples are sorted by length together: enough to save padding, too few to order the whole epoch."""

Int64 = npt.NDArray[np.int64]


def has_image(sample: Sample) -> bool:
    return bool(sample.images)


class GroupedSampler(Sampler[int]):
    """Positions of `samples` in the order of an epoch; `set_epoch` chooses which.

    `step_size` samples make one optimizer step: batch size x accumulation x processes. Consecutive batches cut from
    this order, dealt to the processes in turn, therefore form whole steps. The order depends on the samples,
    `step_size`, seed and epoch alone, so that every process, and a resumed one, has the same.
    """

    def __init__(self, samples: Sequence[Sample], step_size: int, seed: int) -> None:
        self.lengths = np.array([sample.length for sample in samples], dtype=np.int64)
        self.images = np.array([has_image(sample) for sample in samples], dtype=np.bool_)
        self.step_size, self.seed, self.epoch = step_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.lengths, self.images, self.step_size, self.seed, self.epoch).tolist())


def epoch_order(lengths: Int64, images: npt.NDArray[np.bool_], step_size: int, seed: int, epoch: int) -> Int64:
    """A permutation of range(n): steps of `step_size`, and last what fills no step of its modality.

    `lengths` [n] in tokens; `images` [n] says which samples have one.
    """
    # Raw draws, sorted: unlike a shuffle's algorithm they are the same in every version of NumPy.
    lottery = np.random.PCG64([seed, epoch])
    place = lottery.random_raw(len(lengths))
    steps: list[Int64] = []
    rest: list[Int64] = []
    for group in (np.flatnonzero(images), np.flatnonzero(~images)):
        drawn = group[np.argsort(place[group], kind="stable")]
        whole = len(drawn) // step_size * step_size
        for start in range(0, whole, STEPS_SORTED * step_size):
            together = drawn[start : min(start + STEPS_SORTED * step_size, whole)]
            steps += np.split(_longest_first(together, lengths), len(together) // step_size)
        rest.append(_longest_first(drawn[whole:], lengths))
    shuffled = np.argsort(lottery.random_raw(len(steps)), kind="stable")
    order: Int64 = np.concatenate([*(steps[step] for step in shuffled), *rest])
    return order


def _longest_first(rows: Int64, lengths: Int64) -> Int64:
    return rows[np.argsort(-lengths[rows], kind="stable")]
