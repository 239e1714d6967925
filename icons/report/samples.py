"""Which samples the page shows: top, either side of the cut, bottom, and at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icons.selection.compare import Bool, Int64

EACH = 24
"""Samples of each kind: what bounds the page at any number of records."""


@dataclass(frozen=True)
class Kind:
    """A place in the ranking: `key` for the filter, `label` for the reader, its rows in order."""

    key: str
    label: str
    rows: Int64


def ranking(chosen_N: Bool, valid_N: Bool, value_N: npt.NDArray[np.float64], ranks_N: npt.NDArray[np.float64]) -> Int64:
    """The valid rows, the best first: the chosen before the others, then by value, mean percentile rank, row."""
    rows = np.flatnonzero(valid_N)
    return rows[np.lexsort((rows, -ranks_N[rows], -value_N[rows], ~chosen_N[rows]))]


def kinds(order_V: Int64, chosen_N: Bool, *, ranked: bool, each: int = EACH) -> list[Kind]:
    """`ranked`: there is an order among the chosen; without one there is no top and no near miss."""
    size = int(np.count_nonzero(chosen_N))
    anywhere = Kind("random", "At random from the data", np.sort(_drawn(order_V, each)))
    if not ranked:
        inside, outside = order_V[:size], order_V[size:]
        return [
            Kind("chosen", "Selected, at random", np.sort(_drawn(inside, each))),
            Kind("left", "Not selected, at random", np.sort(_drawn(outside, each))),
            anywhere,
        ]
    return [
        Kind("top", "Top", order_V[:each]),
        Kind("above", "Just above the cut", order_V[max(0, size - each) : size]),
        Kind("below", "Just below the cut", order_V[size : size + each]),
        Kind("bottom", "Bottom", order_V[max(size, len(order_V) - each) :]),
        anywhere,
    ]


def _drawn(rows: Int64, count: int) -> Int64:
    # The raw stream of PCG64 is the same in every NumPy.
    return rows[np.argsort(np.random.PCG64(0).random_raw(len(rows)), kind="stable")[:count]]


def percentiles(scores_NK: npt.NDArray[np.float32], valid_N: Bool, rows: Sequence[int]) -> npt.NDArray[np.float64]:
    """[len(rows), K]: the percent of the valid rows whose score is not above that row's."""
    percents = np.zeros((len(rows), scores_NK.shape[1]))
    for column in range(scores_NK.shape[1]):
        ordered = np.sort(scores_NK[valid_N, column])
        percents[:, column] = 100 * np.searchsorted(ordered, scores_NK[list(rows), column], side="right") / len(ordered)
    return percents
