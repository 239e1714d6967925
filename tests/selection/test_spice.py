"""SPICE against a plain loop over its formula, and the budget over pools."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from icons.selection.consensus import highest
from icons.selection.registry import CannotAnswerError, Evidence, GradientShard, find_method, rank
from icons.selection.spice import Settings, conflicts, information, pick
from tests.reference.spice import spice_picks


def gradients(count: int, dim: int, seed: int, scale: float = 0.7) -> torch.Tensor:
    return scale * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("count", "dim", "most"), [(2, 3, 2), (12, 5, 7), (40, 8, 25), (24, 64, 24)])
@pytest.mark.parametrize(("alpha", "penalty", "stop"), [(1.0, 0.1, 0.0), (0.3, 5.0, 0.0), (2.0, 0.0, 0.5)])
def test_the_picks_are_those_of_the_formula(
    count: int, dim: int, most: int, alpha: float, penalty: float, stop: float, seed: int
) -> None:
    pool = gradients(count, dim, seed)
    expected = spice_picks(pool.double().tolist(), most, alpha, penalty, stop)
    assert pick(pool, most, Settings(alpha, penalty, stop)).positions == expected


def test_of_equal_candidates_the_first_is_picked_and_zeros_never() -> None:
    pool = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert pick(pool, 4, Settings()).positions == [1, 2]


def test_a_conflicting_candidate_waits() -> None:
    pool = torch.tensor([[1.0, 0.0], [-0.9, 0.0], [0.3, 0.3]])
    assert pick(pool, 2, Settings(penalty=0.0)).positions == [0, 1]
    assert pick(pool, 2, Settings(penalty=3.0)).positions == [0, 2]


def test_a_zero_gradient_does_not_end_a_pool_whose_others_all_conflict() -> None:
    pool = torch.tensor([[1.0, 0.0], [-0.2, 0.0], [0.0, 0.0], [-0.1, 0.0]])
    assert pick(pool, 4, Settings()).positions == [0, 1, 3] == spice_picks(pool.tolist(), 4, 1.0, 0.1, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_conflicts_with_a_selection_that_cancels_out(seed: int) -> None:
    long, short = gradients(2, 16, seed, scale=3.0), gradients(20, 16, seed + 100, scale=0.03)
    pool = torch.cat([long, -long.sum(0, keepdim=True), short])
    den_D = 1 + (pool[:3].double() ** 4).sum(0)
    gain_B = torch.log1p((short.double() ** 2 / den_D).sum(1))
    found = pick(pool, 4, Settings()).positions
    assert sorted(found[:3]) == [0, 1, 2]
    assert found[3] == 3 + int(gain_B.argmax())


def test_an_early_stop_picks_fewer() -> None:
    pool = gradients(60, 4, 0)
    whole, cut = pick(pool, 60, Settings()), pick(pool, 60, Settings(stop=0.3))
    assert 1 < len(cut.positions) < len(whole.positions) == 60
    assert whole.positions[: len(cut.positions)] == cut.positions


def test_information_and_conflict_are_those_of_the_definition() -> None:
    chosen = gradients(5, 3, 1).double()
    den = 1 + 0.5 * (chosen**4).sum(0)
    assert information(chosen, 0.5) == pytest.approx(sum(math.log(x) for x in den.tolist()))
    mean = chosen.mean(0)
    cosines = [float(g @ mean / g.norm() / mean.norm()) for g in chosen]
    assert conflicts(chosen).tolist() == pytest.approx([max(0.0, -c) for c in cosines])


def evidence(rows: int, count: int, *, shard: int = 200, dim: int = 16, **spice: float) -> Evidence:
    raw = gradients(rows, dim, 3).numpy()
    norms = np.linalg.norm(raw, axis=1).astype(np.float32)
    unit = (raw / norms[:, None]).astype(np.float16)
    valid = np.arange(rows) % 11 != 0
    zeros = np.zeros(rows, np.float32)

    def shards() -> Iterator[GradientShard]:
        for start in range(0, rows, shard):
            part = slice(start, min(start + shard, rows))
            yield GradientShard(np.arange(part.start, part.stop), unit[part], norms[part], valid[part])

    options = {"spice": {"pool": 32, "keep": 16, "alpha": 1.0, "penalty": 0.1, "stop": 0.0} | spice}
    scores = np.zeros((rows, 2), np.float32)
    return Evidence(scores, valid, ["a", "b"], zeros, zeros, norms, 20, count, 0, options, shards)


@pytest.mark.parametrize(("count", "stop"), [(1, 0.0), (100, 0.0), (190, 0.0), (700, 0.0), (190, 0.95)])
def test_the_budget_is_always_filled_from_all_over_the_data(count: int, stop: float) -> None:
    known = evidence(1000, count, stop=stop)
    ranking = rank(find_method("spice"), known)
    chosen = highest(ranking.values, np.zeros(1000), known.valid, count, "index", 0)
    assert len(chosen) == count
    assert known.valid[chosen].all()
    if not stop:
        picked = np.flatnonzero(ranking.values == 1.0)
        np.testing.assert_array_equal(picked, chosen)
        assert ranking.notes["spice"]["rows"] == ranking.notes["random"]["rows"] == count
        if count >= 100:
            shares = np.histogram(chosen, bins=5, range=(0, 1000))[0] / count
            assert abs(shares - 0.2).max() < 0.05
            assert ranking.notes["spice"]["log_determinant"] > ranking.notes["random"]["log_determinant"]


def test_the_choice_is_the_same_again_and_another_with_another_seed() -> None:
    known, spice = evidence(600, 120), find_method("spice")
    first, again = rank(spice, known).values, rank(spice, known).values
    np.testing.assert_array_equal(first, again)
    assert (rank(spice, replace(known, seed=1)).values != first).any()


def test_a_valid_row_with_a_zero_gradient_is_the_last_to_fill_the_budget() -> None:
    known = evidence(300, 270, shard=300, penalty=50.0)
    assert known.gradients is not None
    [shard] = known.gradients()
    zero = np.flatnonzero(known.valid)[:5]
    shard.norms[zero] = 0
    ranking = rank(find_method("spice"), replace(known, gradients=lambda: iter([shard])))
    others = np.setdiff1d(np.flatnonzero(known.valid), zero)
    assert ranking.values[zero].max() < ranking.values[others].min()


def test_without_gradients_there_is_no_answer() -> None:
    with pytest.raises(CannotAnswerError, match="projection"):
        rank(find_method("spice"), replace(evidence(50, 10), gradients=None))
