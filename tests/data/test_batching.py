"""Batches: every sample once, the budget kept, neighbours in length."""

from __future__ import annotations

import random

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


def test_the_longest_come_first() -> None:
    assert plan_batches([3, 9, 5], 9)[0] == [1]


def test_nothing_gives_nothing() -> None:
    assert plan_batches([], 100) == []
