"""Proportional representation: every validation sample approves the rows nearest to it, seats go round (see
`icons.selection.proportional`)."""

from __future__ import annotations

import numpy as np

from icons.selection.approvals import TopLists, by_row, top_lists
from icons.selection.consensus import percentile_ranks
from icons.selection.order import tie_order, values_of
from icons.selection.proportional import take_in_proportion
from icons.selection.registry import CannotAnswerError, Evidence, Ranking, method

CHOICE = 2.0
"""Approved rows for each row of the budget, where `approve` is left to the data: enough to choose from, and no more, so
that a voter's rows stay its nearest. Tuned on the study's first seed, where 1.75 to 5 differ by less than its noise."""
MOST_APPROVALS = 32
"""Approvals for each row of the budget, at most, where `approve` is left to the data: rows further down a voter's list
are hardly its own, and lists of this length fit in memory for any number of rows."""


@method("proportional", keys=("proportional", "tie_break", "seed"))
def proportional(evidence: Evidence) -> Ranking:
    if evidence.voters is None:
        raise CannotAnswerError(
            "proportional needs projected gradients, and gradients.projection: none stores scores alone"
        )
    voters, valid = evidence.voters(), int(evidence.valid.sum())
    approve = evidence.options["proportional"]["approve"]
    if approve is None:
        depth = min(valid, -(-MOST_APPROVALS * evidence.count // len(voters)))
        lists = _enough(top_lists(voters, depth), evidence)
    else:
        lists = top_lists(voters, max(1, round(approve / 100 * valid)))
    approvals = by_row(lists, len(evidence.valid))
    ranks = percentile_ranks(evidence.scores, evidence.valid)
    order = tie_order(ranks, evidence.options["tie_break"], evidence.seed)
    taken = take_in_proportion(approvals, voters.weights, evidence.count, order)
    filled = min(evidence.count, valid) - len(taken)
    notes = {
        "voters": len(voters),
        "rows_a_voter_approves": lists.depth,
        "approve": 100 * lists.depth / valid,
        "approved_rows": len(approvals.approved),
        "filled_by_rank": filled,
    }
    rest = f"; {filled} rows that nobody approves fill the rest, by mean rank" if filled else ""
    return Ranking(
        values_of(taken, ranks),
        notes,
        f"{len(voters)} validation samples approve {lists.depth} rows each ({notes['approve']:.3g}%), "
        f"{len(approvals.approved)} in all{rest}",
    )


def _enough(lists: TopLists, evidence: Evidence) -> TopLists:
    """Cut to the fewest rows a voter with which CHOICE times the budget is approved by somebody."""
    distinct = np.cumsum(np.bincount(lists.first_places(len(evidence.valid)), minlength=lists.depth)[: lists.depth])
    depth = 1 + int(np.searchsorted(distinct, min(CHOICE * evidence.count, distinct[-1])))
    return lists.cut(depth)
