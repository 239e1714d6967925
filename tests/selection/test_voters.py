"""Methods in which every validation sample speaks for itself, against plain loops over their formulas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from icons.selection import approvals as approvals_module
from icons.selection.approvals import by_row, top_lists
from icons.selection.coverage import Coverage
from icons.selection.proportional import take_in_proportion
from icons.selection.registry import CannotAnswerError, Evidence, find_method, rank
from icons.selection.voters import Block, Voters
from tests.reference import greedy

COLUMNS = np.repeat([0, 1, 2], [7, 3, 12])


def influence(rows: int, seed: int, *, ties: bool = False) -> torch.Tensor:
    drawn = torch.randn(len(COLUMNS), rows, generator=torch.Generator().manual_seed(seed))
    drawn += torch.randn(3, rows, generator=torch.Generator().manual_seed(seed + 50))[torch.from_numpy(COLUMNS)]
    return (drawn * 2).round() / 2 if ties else drawn


def voters(table: torch.Tensor, size: int = 37) -> Voters:
    def blocks(thin: int) -> Iterator[Block]:
        for start in range(0, table.shape[1], size):
            rows = np.arange(start, min(start + size, table.shape[1]))[::thin]
            yield Block(rows, table[:, torch.from_numpy(rows)])

    return Voters(COLUMNS, blocks)


def evidence(table: torch.Tensor, count: int, method: str, **options: Any) -> Evidence:
    rows = table.shape[1]
    scores = np.stack([table[torch.from_numpy(k == COLUMNS)].mean(0).numpy() for k in range(3)], axis=1)
    zeros = np.zeros(rows, np.float32)
    settings = {"proportional": {"approve": None}, "coverage": {"voters": None, "pool": None}}
    return Evidence(
        scores, np.ones(rows, np.bool_), ["a", "b", "c"], zeros, zeros, zeros, 20, count,
        options={method: settings[method] | options, "tie_break": "rank"}, voters=lambda: voters(table),
    )  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("depth", [1, 5, 40, 400])
def test_every_voters_best_rows_from_one_reading(depth: int, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals_module, "PIECE", 16)  # buffers fill up and are emptied many times
    table = influence(300, 1, ties=ties)
    lists = top_lists(voters(table), depth)
    assert [set(row) for row in lists.rows.tolist()] == greedy.approvals(table.tolist(), depth)
    best = np.take_along_axis(table.numpy(), lists.rows.astype(np.int64), 1)
    assert (np.diff(best, axis=1) <= 0).all()
    first = lists.first_places(300)
    assert all(first[row] == min(list(r).index(row) for r in lists.rows.tolist() if row in r) for row in lists.rows[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("depth", [3, 20])
def test_proportional_takes_what_a_plain_loop_takes(seed: int, depth: int) -> None:
    table = influence(120, seed)
    order = np.random.default_rng(seed).permutation(120)  # with so few voters, gains are often equal
    lists = top_lists(voters(table), depth)
    taken = take_in_proportion(by_row(lists, 120), voters(table).weights, 60, order)
    assert taken == greedy.proportional(greedy.approvals(table.tolist(), depth), COLUMNS.tolist(), 60, order.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_coverage_takes_what_a_plain_loop_takes(seed: int) -> None:
    table = influence(90, seed)
    ranking = rank(find_method("coverage"), evidence(table, 40, "coverage"))
    taken = np.argsort(-ranking.values)[:40].tolist()
    assert taken == greedy.coverage(table.double().tolist(), COLUMNS.tolist(), 40)


def test_a_majority_gets_its_share_of_the_seats_and_no_more() -> None:
    """Twelve voters of one mind and three of another, of two tasks that count alike: rows 0-9, rows 10-19."""
    columns = np.repeat([0, 1], [12, 3])
    table = torch.full((15, 40), -1.0)
    table[:12, :10], table[12:, 10:20] = 1.0, 1.0
    both = Voters(columns, lambda thin: iter([Block(np.arange(40), table)]))
    approved = by_row(top_lists(both, 10), 40)
    taken = take_in_proportion(approved, both.weights, 10, np.arange(40))
    assert sum(row < 10 for row in taken) == 5
    assert sum(10 <= row < 20 for row in taken) == 5


def test_what_nobody_approves_is_filled_by_rank_and_said() -> None:
    table = influence(200, 3)
    known = evidence(table, 60, "proportional", approve=0.5)  # one row a voter
    ranking = rank(find_method("proportional"), known)
    approved = ranking.notes["approved_rows"]
    assert approved < 60
    assert ranking.notes["filled_by_rank"] == 60 - approved
    assert "fill the rest" in ranking.summary
    assert sum(ranking.values > 1) == approved


def test_the_data_decide_how_many_a_voter_approves() -> None:
    table = influence(400, 4)
    notes = rank(find_method("proportional"), evidence(table, 60, "proportional")).notes
    depth = notes["rows_a_voter_approves"]
    sizes = [len(set().union(*greedy.approvals(table.tolist(), d))) for d in (depth - 1, depth)]
    assert sizes[0] < 120 <= sizes[1] == notes["approved_rows"]  # twice the budget


def test_pools_share_what_is_covered_and_take_most_of_the_same_rows() -> None:
    table = influence(2000, 6)
    whole, pools = (
        rank(find_method("coverage"), evidence(table, 400, "coverage", pool=pool)).values for pool in (None, 500)
    )
    assert (pools > 1).sum() == 400
    assert ((whole > 1) & (pools > 1)).sum() > 300


def test_a_sample_of_the_voters_has_so_many_of_each_task() -> None:
    sample = voters(influence(30, 0)).sample(4, seed=1)
    assert np.bincount(sample.columns).tolist() == [4, 3, 4]
    assert next(sample.blocks(1)).influence.shape[0] == 11
    assert sample.weights.sum() == pytest.approx(3)


def test_a_voter_to_whom_all_rows_are_alike_is_no_trouble() -> None:
    table = influence(50, 2)
    table[4] = 0.5
    for method in ("proportional", "coverage"):
        ranking = rank(find_method(method), evidence(table, 10, method))
        assert (ranking.values > 1).sum() == 10


def test_without_gradients_there_are_no_voters() -> None:
    for method in ("proportional", "coverage"):
        with pytest.raises(CannotAnswerError, match="needs projected gradients"):
            rank(find_method(method), replace(evidence(influence(50, 0), 10, method), voters=None))


def test_nothing_is_taken_of_nothing() -> None:
    assert Coverage(np.ones(2)).take(torch.zeros(3, 2), 2, np.arange(3)) == []
