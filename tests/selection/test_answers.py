"""How far a selection prefers answers, against a plain count and against random draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from icons.selection.answers import answers_by_source, first_answer, mean_distance, random_distances


def test_distances_are_those_of_a_plain_count() -> None:
    answers = ["yes", "no", "maybe"]
    answer_N = np.repeat([0, 1, 2, 0, 1], [40, 40, 20, 50, 50]).astype(np.int32)
    source_N = np.repeat([0, 1], [100, 100]).astype(np.int32)
    selected_N = np.zeros(200, np.bool_)
    selected_N[:40] = True  # of the first source only "yes"
    selected_N[100:110] = selected_N[150:160] = True  # of the second one both alike
    first, second = answers_by_source(["a", "b"], source_N, answers, answer_N, selected_N)
    assert first.distance == pytest.approx(0.6)
    assert first.distinct == 3
    assert first.distinct_selected == 1
    assert first.top[0] == ("yes", 0.4, 1.0)
    assert first.skewed
    assert second.distance == 0
    assert not second.skewed
    own, chance = mean_distance([first, second])
    assert own == pytest.approx((40 * 0.6 + 20 * 0) / 60)
    assert 0 < chance < own


def test_chance_is_what_random_draws_have() -> None:
    data = np.array([500, 300, 150, 50])
    lottery = np.random.default_rng(3)
    pool = np.repeat(np.arange(4), data)
    distances = []
    for _ in range(400):
        drawn = Counter(lottery.choice(pool, 60, replace=False).tolist())
        distances.append(sum(abs(drawn[a] / 60 - data[a] / 1000) for a in range(4)) / 2)
    assert random_distances(data, 60).mean() == pytest.approx(np.mean(distances), rel=0.1)


def test_answers_that_are_all_different_say_nothing() -> None:
    answer_N = np.arange(50, dtype=np.int32)
    chosen = np.arange(50) < 10
    assert answers_by_source(["a"], np.zeros(50, np.int32), list(map(str, range(50))), answer_N, chosen) == []


def test_the_first_answer_of_a_record() -> None:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "  two\n words "}, {"from": "gpt", "value": "x"}]
    assert first_answer({"conversations": turns}) == "two words"
    assert first_answer({"conversations": None}) == ""
    assert len(first_answer({"conversations": [{"from": "gpt", "value": "a" * 1_000_000}]})) == 60
