"""Sequential proportional approval voting (Thiele 1895; Aziz et al. 2017, "Justified representation", for its axioms).

Rows are taken one by one, each time the one with the largest sum, over the voters that approve it, of
weight / (1 + how many rows that voter has already). So a majority gets its share of the seats and no more. The sum is
the gain of a monotone submodular function: gains only fall, and what a heap has on top after its gain was made anew is
the exact maximum (lazy greedy; within 1 - 1/e of the best set, Nemhauser et al. 1978).
"""

from __future__ import annotations

import heapq
import math

from icons.selection.approvals import Approvals
from icons.selection.voters import Float64, Int64


def take_in_proportion(approvals: Approvals, weights_M: Float64, count: int, order_N: Int64) -> list[int]:
    """At most `count` rows in the order of taking; fewer where no other row has an approval.

    Of equal gains the row with the lower `order` [N] is taken. Gains are exactly rounded sums, so they do not depend on
    the order of the voters.
    """
    shares = weights_M.tolist()
    seats = [0] * len(shares)
    weights = weights_M.tolist()
    starts, voters = approvals.starts, approvals.voters

    def approving(row: int) -> list[int]:
        approved_by: list[int] = voters[starts[row] : starts[row + 1]].tolist()
        return approved_by

    heap = [
        (-math.fsum(map(shares.__getitem__, approving(row))), place, row)
        for row, place in zip(approvals.approved.tolist(), order_N[approvals.approved].tolist(), strict=True)
    ]
    heapq.heapify(heap)
    taken: list[int] = []
    while heap and len(taken) < count:
        _, place, row = heap[0]
        approved_by = approving(row)
        entry = (-math.fsum(map(shares.__getitem__, approved_by)), place, row)
        if entry > min(heap[1:3], default=entry):
            heapq.heapreplace(heap, entry)
            continue
        heapq.heappop(heap)
        taken.append(row)
        for voter in approved_by:
            seats[voter] += 1
            shares[voter] = weights[voter] / (1 + seats[voter])
    return taken
