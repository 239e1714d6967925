"""Which samples go through the model together: neighbours in length, under a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

A_BATCH = 64
"""A batch is counted as another 1/64 of the budget: what it takes beside its tokens, in full ones."""


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Positions of `lengths`, grouped; the longest first, so that running out of memory shows at once.

    A batch costs count x longest padded tokens, at most `tokens_per_batch`; a sample longer than that goes alone. Of
    all ways to cut the samples in order of length this one costs least, a batch counted as `A_BATCH` says: a few
    samples of very different lengths are not padded to the longest just because the budget would take it. The plan
    depends on the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    longest_N = np.array([lengths[position] for position in order], np.int64)
    cost_N, begins = np.zeros(len(order) + 1), [0] * (len(order) + 1)  # of the first n samples; where their last begins
    first = 0
    for stop in range(1, len(order) + 1):
        while first < stop - 1 and (stop - first) * longest_N[first] > tokens_per_batch:
            first += 1
        at = np.arange(first, stop)
        costs = cost_N[first:stop] + (stop - at) * longest_N[first:stop] + tokens_per_batch / A_BATCH
        best = int(costs.argmin())
        cost_N[stop], begins[stop] = costs[best], first + best
    batches: list[list[int]] = []
    stop = len(order)
    while stop:
        batches.append(order[begins[stop] : stop])
        stop = begins[stop]
    return batches[::-1]
