"""Generalist: votes, ranks and the cut.

ICONS (arXiv 2501.00654), stage 2: a task votes for the samples at or above its (100 - p)-th score percentile, votes are
summed over tasks, and the floor(p · N / 100) samples with most votes are selected. Votes are small integers, so the cut
falls inside a class of samples with equal votes; the tie-break decides there, the same way on every machine.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

TieBreak = Literal["rank", "random", "index"]


def thresholds(scores_NK: npt.NDArray[np.float32], valid_N: Bool, percent: float) -> Float64:
    """tau_k [K]: the (100 - percent)-th percentile (linear) of each task's scores over the valid rows, in float64."""
    return np.array([np.percentile(column[valid_N].astype(np.float64), 100 - percent) for column in scores_NK.T])


def cast_votes(scores_NK: npt.NDArray[np.float32], valid_N: Bool, tau_K: Float64) -> npt.NDArray[np.int16]:
    """Votes [N]: for how many tasks each valid row reaches the threshold."""
    reached = (scores_NK >= tau_K) & valid_N[:, None]
    votes: npt.NDArray[np.int16] = reached.sum(axis=1).astype(np.int16)
    return votes


def percentile_ranks(scores_NK: npt.NDArray[np.float32], valid_N: Bool) -> Float64:
    """Mean over tasks of each row's rank among the valid rows, in (0, 1]; equal scores share their mean rank.

    0 for invalid rows. Ranks are half-integers and their sum is exact, so equal means are equal bits.
    """
    count = int(valid_N.sum())
    total_V = np.zeros(count)
    for column_N in scores_NK.T:
        column_V = column_N[valid_N]
        order_V = np.argsort(column_V)
        ordered_V = column_V[order_V]
        first = np.flatnonzero(np.r_[True, ordered_V[1:] != ordered_V[:-1]])  # where a class of equal scores begins
        sizes = np.diff(np.r_[first, count])
        total_V[order_V] += np.repeat(first + (sizes + 1) / 2, sizes)
    ranks: Float64 = np.zeros(len(valid_N))
    ranks[valid_N] = total_V / (count * scores_NK.shape[1])
    return ranks


def budget(num_rows: int, percent: float) -> int:
    """floor(percent · N / 100) in exact arithmetic: 29% of 100 are 29, where floating point makes them 28.99..."""
    return int(Fraction(repr(float(percent))) * num_rows / 100)


def highest(
    values_N: Float64,
    ranks_N: Float64,
    valid_N: Bool,
    count: int,
    tie_break: TieBreak,
    seed: int,
) -> Int64:
    """Ascending indices of the `count` valid rows with the highest values (all valid rows when there are fewer).

    Ties: `rank` prefers the higher mean percentile rank, then the lower index; `index` the lower index; `random` a
    seeded order.
    """
    rows = np.flatnonzero(valid_N)
    if tie_break == "rank":
        order = np.lexsort((rows, -ranks_N[rows], -values_N[rows]))
    elif tie_break == "index":
        order = np.lexsort((rows, -values_N[rows]))
    else:
        # The raw stream of PCG64 is the same in every NumPy; the methods of Generator need not be.
        lottery_N = np.random.PCG64(seed).random_raw(len(values_N))
        order = np.lexsort((rows, lottery_N[rows], -values_N[rows]))
    return np.sort(rows[order[:count]])
