"""Values of a method that takes rows one by one: the order of taking, and behind it the mean rank."""

from __future__ import annotations

import numpy as np

from icons.selection.consensus import Float64, Int64, TieBreak


def values_of(taken: list[int], ranks_N: Float64) -> Float64:
    """[N]: 2 for the first row taken, falling evenly to above 1; for the others their mean percentile rank, 1 at most.

    So a budget that is not used up is filled by rank.
    """
    values_N = ranks_N.copy()
    values_N[taken] = 1 + np.arange(len(taken), 0, -1) / max(1, len(taken))
    return values_N


def tie_order(ranks_N: Float64, tie_break: TieBreak, seed: int) -> Int64:
    """[N]: each row's place when all are equal but for `selection.tie_break`; see `consensus.highest`."""
    rows = np.arange(len(ranks_N))
    if tie_break == "rank":
        order = np.lexsort((rows, -ranks_N))
    elif tie_break == "random":
        order = np.argsort(np.random.PCG64(seed).random_raw(len(rows)), kind="stable")
    else:
        order = rows
    places: Int64 = np.empty(len(rows), np.int64)
    places[order] = rows
    return places
