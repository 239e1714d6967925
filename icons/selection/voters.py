"""Validation samples as voters: what each of them says about every training row, block by block.

A task's score is the mean over its validation samples, which is one direction. Methods that let every sample speak for
itself read these blocks instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Block:
    """Consecutive training rows [n] and every voter's cosine with each, [M, n] float32.

    With several checkpoints it is the weighted sum of their cosines. Only valid rows are in it.
    """

    rows: Int64
    influence: Tensor


@dataclass(frozen=True)
class Voters:
    """M voters: the valid validation samples. `columns` [M] has the column of the score table each belongs to.

    `blocks(thin)` reads the training rows in their order, every `thin`-th valid one of each shard.
    """

    columns: Int64
    blocks: Callable[[int], Iterator[Block]]

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def weights(self) -> Float64:
        """[M]: 1 / (number of voters of its column), so that tasks count alike and a group's members share one."""
        weights: Float64 = 1.0 / np.bincount(self.columns)[self.columns]
        return weights

    def part(self, kept: Int64) -> Voters:
        """Those at the positions `kept`, ascending."""

        def blocks(thin: int) -> Iterator[Block]:
            for block in self.blocks(thin):
                at = torch.from_numpy(kept).to(block.influence.device)
                yield Block(block.rows, block.influence[at])

        return Voters(self.columns[kept], blocks)

    def sample(self, most: int, seed: int) -> Voters:
        """At most `most` of each column, drawn by seed."""
        # The raw stream of PCG64 is the same in every NumPy; the methods of Generator need not be.
        lottery_M = np.random.PCG64(seed).random_raw(len(self.columns))
        kept = [
            members[np.argsort(lottery_M[members], kind="stable")[:most]]
            for members in (np.flatnonzero(self.columns == column) for column in np.unique(self.columns))
        ]
        return self.part(np.sort(np.concatenate(kept)))
