"""Measures, their bootstrap intervals, and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from icons.evaluation.measures import Answers, difference, mean_over_tasks, measured


def answers(right: list[int], tokens: list[int], losses: list[float] | None = None) -> Answers:
    values = losses if losses is not None else [1.0] * len(right)
    return Answers(np.array(values), np.array(right), np.array(tokens))


def drawn(share: float, count: int, seed: int) -> Answers:
    hits = np.random.default_rng(seed).random(count) < share
    return Answers(1.0 - hits, hits.astype(np.int64), np.ones(count, np.int64))


def test_the_measures_are_the_plain_means() -> None:
    some = answers([3, 1, 0], [3, 2, 1], [0.5, 1.0, 3.0])
    assert measured(some, "exact").mean == pytest.approx(1 / 3)
    assert measured(some, "token_accuracy").mean == pytest.approx(4 / 6)
    assert measured(some, "loss").mean == pytest.approx(1.5)
    other = answers([1], [1], [0.0])
    assert mean_over_tasks({"a": some, "b": other}, "exact").mean == pytest.approx((1 / 3 + 1) / 2)
    with pytest.raises(KeyError):
        measured(some, "generated")


def test_the_interval_is_that_of_the_binomial() -> None:
    interval = measured(drawn(0.3, 400, 0), "exact")
    deviation = (0.3 * 0.7 / 400) ** 0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert interval.low < interval.mean < interval.high
    assert measured(drawn(0.3, 400, 0), "exact") == interval  # drawn by a fixed seed


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    within = 0
    for seed in range(200):
        interval = measured(drawn(0.4, 150, seed), "exact")
        within += interval.low <= 0.4 <= interval.high
    assert within == pytest.approx(190, abs=10)


def test_a_paired_difference_sees_what_two_intervals_do_not() -> None:
    """One model answers what the other does and every twentieth question more."""
    first = drawn(0.5, 600, 1)
    more = first.right.copy()
    more[::20] = 1
    second = Answers(1.0 - more, more, first.tokens)
    lead = difference([{"a": second}], [{"a": first}], "exact")
    assert lead.mean == pytest.approx((more.sum() - first.right.sum()) / 600)
    assert lead.sign == 1
    assert measured(second, "exact").low < measured(first, "exact").high
    assert difference([{"a": first}], [{"a": first}], "exact").sign == 0
    assert difference([{"a": first}], [{"a": second}], "exact").sign == -1


def test_the_spread_over_seeds_is_in_the_difference() -> None:
    base = [{"a": drawn(0.5, 2000, 9)}]
    steady = [{"a": drawn(0.6, 2000, 10)}, {"a": drawn(0.6, 2000, 11)}]
    wild = [{"a": drawn(0.4, 2000, 12)}, {"a": drawn(0.8, 2000, 13)}]
    sure, unsure = difference(steady, base, "exact"), difference(wild, base, "exact")
    assert unsure.high - unsure.low > 3 * (sure.high - sure.low)
    assert sure.sign == 1
    assert unsure.sign == 0
