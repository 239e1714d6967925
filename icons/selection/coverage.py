"""Coverage: rows are taken one by one so that every voter gets something, each further bit counting less.

    F(S) = sum over voters j of weight_j log(1 + sum over i in S of a_ij)
    a_ij = max(0, (I_ij - mean_j) / deviation_j)

with mean and deviation of voter j's cosines over the training rows. F is monotone and submodular (a concave function of
sums), so lazy greedy is exact and within 1 - 1/e of the best set (Nemhauser et al. 1978). The logarithm is that of
proportional fairness: what a voter gains by a row is divided by what it has.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from icons.selection.voters import Float64, Int64


class Coverage:
    """What each voter has of the rows taken so far; candidates come all at once, or pool by pool."""

    def __init__(self, weights_M: Float64) -> None:
        self._weights = torch.from_numpy(weights_M).float()
        self._covered = torch.ones(len(weights_M), dtype=torch.float64)  # 1 + sum of a_ij

    def take(self, support_CM: Tensor, most: int, order_C: Int64) -> list[int]:
        """At most `most` of C candidates, by position, in the order of taking; none that adds nothing.

        `support_CM` float32 is a_ij. Of equal gains the candidate with the lower `order` [C] is taken.
        """
        if most <= 0:
            return []
        places = order_C.tolist()
        heap = [(-gain, places[at], at) for at, gain in enumerate(self._gains(support_CM)) if gain > 0]
        heapq.heapify(heap)
        taken: list[int] = []
        while heap and len(taken) < most:
            _, place, at = heap[0]
            entry = (-self._gains(support_CM[at : at + 1])[0], place, at)
            if entry > min(heap[1:3], default=entry):
                heapq.heapreplace(heap, entry)
                continue
            heapq.heappop(heap)
            if entry[0] < 0:
                taken.append(at)
                self._covered += support_CM[at]
        return taken

    def _gains(self, support_CM: Tensor) -> list[float]:
        """Of each candidate: sum_j weight_j log((covered_j + a_ij) / covered_j)."""
        by_voter_CM = torch.log1p(support_CM * self._covered.reciprocal().float())
        gains: list[float] = torch.mv(by_voter_CM, self._weights).tolist()
        return gains


def support(influence_Mn: Tensor, mean_M: Tensor, deviation_M: Tensor) -> Tensor:
    """a_ij as [n, M] float32; 0 for a voter to whom all rows are alike."""
    scale_M = torch.where(deviation_M > 0, 1 / deviation_M, 0.0)
    return ((influence_Mn - mean_M[:, None]) * scale_M[:, None]).clamp_(min=0).T.contiguous()


class Moments:
    """Mean and deviation of every voter's cosines, summed up in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, influence_Mn: Tensor) -> None:
        wide_Mn = influence_Mn.double()
        self._count += influence_Mn.shape[1]
        self._sum = self._sum + wide_Mn.sum(1)
        self._squares = self._squares + (wide_Mn * wide_Mn).sum(1)

    def result(self) -> tuple[Tensor, Tensor]:
        """[M] each, float32."""
        if not isinstance(self._sum, Tensor) or not isinstance(self._squares, Tensor):
            raise ValueError("no valid training row")
        mean_M = self._sum / self._count
        variance_M = (self._squares / self._count - mean_M * mean_M).clamp(min=0)
        return mean_M.float(), variance_M.sqrt().float()


def drawn_order(rows: npt.NDArray[np.int64], seed: int) -> Int64:
    """Positions of `rows` in an order drawn by seed and first row."""
    lottery = np.random.PCG64([seed, int(rows[0])]).random_raw(len(rows))
    return np.argsort(lottery, kind="stable")
