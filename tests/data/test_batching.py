"""Batches: every sample once, the budget kept, neighbours in length."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest

from icons.data.batching import plan_batches


@pytest.mark.parametrize("budget", [1, 50, 300, 10_000])
def test_every_sample_is_in_one_batch_within_the_budget(budget: int) -> None:
    lengths = [random.Random(budget).randint(1, 120) for _ in range(200)]
    batches = plan_batches(lengths, budget)
    assert sorted(position for batch in batches for position in batch) == list(range(200))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[p] for p in batch) <= budget


def test_sorting_by_length_wastes_little() -> None:
    lengths = [random.Random(1).randint(20, 400) for _ in range(1000)]
    batches = plan_batches(lengths, 4096)
    padded = sum(len(batch) * max(lengths[p] for p in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


def test_few_samples_of_different_lengths_are_not_padded_to_the_longest() -> None:
    lengths = [300, 290, 60, 55, 50, 20, 20, 20, 20]
    batches = plan_batches(lengths, 4096)  # all would fit into one batch, of 2700 tokens
    assert batches == [[0, 1], [2, 3, 4], [5, 6, 7, 8]]


def test_the_plan_costs_least_of_all_cuts() -> None:
    lengths = sorted((random.Random(5).randint(1, 60) for _ in range(11)), reverse=True)

    def cost(cuts: tuple[int, ...]) -> float:
        edges = [0, *cuts, len(lengths)]
        costs = [(stop - start) * lengths[start] for start, stop in pairwise(edges)]
        return sum(costs) + len(costs) * 200 / 64 if max(costs) <= 200 else float("inf")

    possible = [cuts for count in range(len(lengths)) for cuts in combinations(range(1, len(lengths)), count)]
    plan = plan_batches(lengths, 200)
    assert cost(tuple(batch[0] for batch in plan[1:])) == min(map(cost, possible))


def test_the_longest_come_first() -> None:
    assert plan_batches([3, 9, 5], 9)[0] == [1]


def test_nothing_gives_nothing() -> None:
    assert plan_batches([], 100) == []
