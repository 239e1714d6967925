"""Coverage: the graded form of `proportional` (see `icons.selection.coverage`)."""

from __future__ import annotations

import numpy as np
import torch

from icons.selection.consensus import percentile_ranks
from icons.selection.coverage import Coverage, Moments, drawn_order, support
from icons.selection.order import tie_order, values_of
from icons.selection.registry import CannotAnswerError, Evidence, Ranking, method
from icons.selection.voters import Int64, Voters

MOST_NUMBERS = 250_000_000
"""Numbers of the table of all rows and voters up to which it is kept whole: a gigabyte."""
POOL = 1000
"""Rows a pool, where the table would not fit."""
SAMPLE = 20_000
"""Rows, evenly spread, that means and deviations are taken of by pools; their error is 0.7% of a deviation."""


@method("coverage", keys=("coverage", "tie_break", "seed"))
def coverage(evidence: Evidence) -> Ranking:
    if evidence.voters is None:
        raise CannotAnswerError(
            "coverage needs projected gradients, and gradients.projection: none stores scores alone"
        )
    settings = evidence.options["coverage"]
    voters = evidence.voters()
    everybody = len(voters)
    if settings["voters"] is not None:
        voters = voters.sample(settings["voters"], evidence.seed)
    valid, ranks = int(evidence.valid.sum()), percentile_ranks(evidence.scores, evidence.valid)
    order = tie_order(ranks, evidence.options["tie_break"], evidence.seed)
    pool = settings["pool"]
    if pool is None and valid * len(voters) > MOST_NUMBERS:
        pool = POOL
    if pool is None or pool >= valid:
        taken, how = _from_all(voters, evidence.count, order), "from all rows at once"
    else:
        taken, how = _by_pools(voters, evidence, pool, valid, order), f"in pools of {pool} rows"
    filled = min(evidence.count, valid) - len(taken)
    notes = {"voters": len(voters), "of": everybody, "pool": pool, "filled_by_rank": filled}
    rest = f"; {filled} rows fill the rest, by mean rank" if filled else ""
    return Ranking(values_of(taken, ranks), notes, f"{len(voters)} of {everybody} validation samples, {how}{rest}")


def _from_all(voters: Voters, count: int, order_N: Int64) -> list[int]:
    blocks = list(voters.blocks(1))
    rows = np.concatenate([block.rows for block in blocks])
    moments = Moments()
    for block in blocks:
        moments.add(block.influence)
    mean_M, deviation_M = moments.result()
    table_CM = torch.cat([support(block.influence, mean_M, deviation_M).cpu() for block in blocks])
    taken = Coverage(voters.weights).take(table_CM, count, order_N[rows])
    return [int(rows[at]) for at in taken]


def _by_pools(voters: Voters, evidence: Evidence, size: int, valid: int, order_N: Int64) -> list[int]:
    """One reading of a part of the rows for means and deviations, then one of all; each pool gives its part."""
    mean_M, deviation_M = _sampled_moments(voters, valid)
    state, taken, seen = Coverage(voters.weights), list[int](), 0
    for block in voters.blocks(1):
        table_CM = support(block.influence, mean_M, deviation_M).cpu()
        drawn = drawn_order(block.rows, evidence.seed)
        for start in range(0, len(drawn), size):
            at = drawn[start : start + size]
            seen += len(at)
            most = round(evidence.count * seen / valid) - len(taken)
            picked = state.take(table_CM[torch.from_numpy(at)], most, order_N[block.rows[at]])
            taken += block.rows[at[picked]].tolist()
    return taken


def _sampled_moments(voters: Voters, valid: int) -> tuple[torch.Tensor, torch.Tensor]:
    moments = Moments()
    for block in voters.blocks(max(1, valid // SAMPLE)):
        moments.add(block.influence)
    return moments.result()
