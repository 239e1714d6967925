"""The vote against a plain loop over the paper's definition."""

from __future__ import annotations

import numpy as np
import pytest

from icons.selection.consensus import budget, cast_votes, highest, percentile_ranks, thresholds
from icons.selection.influence import combine_groups, influence_matrix, influence_scores, mean_direction


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scores_with_ties(rows: int, tasks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, rows // 2, (rows, tasks)).astype(np.float32) / 7


def test_the_score_is_the_mean_cosine() -> None:
    rng = np.random.default_rng(0)
    train, val = rng.normal(size=(40, 64)), rng.normal(size=(9, 64))
    unit_val = unit(val).astype(np.float16)
    direction = mean_direction([(unit_val[:4], np.ones(4, bool)), (unit_val[4:], np.ones(5, bool))])
    found = influence_scores(unit(train).astype(np.float16), direction[None])[:, 0]
    cosines = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in val] for a in train]
    np.testing.assert_allclose(found, np.mean(cosines, axis=1), atol=1e-3)
    matrix = influence_matrix(unit(train).astype(np.float16), unit_val)
    np.testing.assert_allclose(matrix, cosines, atol=1e-3)


def test_invalid_validation_rows_do_not_count() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(4, 8))).astype(np.float16)
    rows[2] = 0
    valid = np.array([True, True, False, True])
    np.testing.assert_allclose(mean_direction([(rows, valid)]), rows[valid].astype(np.float64).mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="no valid"):
        mean_direction([(rows, np.zeros(4, bool))])


def test_a_group_takes_the_best_of_its_members() -> None:
    scores = np.array([[1, 5, 2], [4, 0, 3]], np.float32)
    assert combine_groups(scores, [[0], [1, 2]]).tolist() == [[1, 5], [4, 3]]


@pytest.mark.parametrize("percent", [5, 20, 37.5, 100])
def test_votes_are_counted_as_the_paper_says(percent: float) -> None:
    scores, valid = scores_with_ties(50, 4), np.ones(50, bool)
    votes = cast_votes(scores, valid, thresholds(scores, valid, percent))
    tau = [np.percentile(scores[:, k].astype(np.float64), 100 - percent) for k in range(4)]
    assert votes.tolist() == [sum(float(scores[i, k]) >= tau[k] for k in range(4)) for i in range(50)]
    assert votes.dtype == np.int16


def test_an_invalid_row_neither_votes_nor_shifts_a_threshold_nor_is_selected() -> None:
    scores, valid = scores_with_ties(60, 3), np.ones(60, bool)
    valid[::7] = False
    scores[~valid] = 99
    tau = thresholds(scores, valid, 20)
    np.testing.assert_array_equal(tau, thresholds(scores[valid], np.ones(int(valid.sum()), bool), 20))
    votes = cast_votes(scores, valid, tau)
    assert not votes[~valid].any()
    ranks = percentile_ranks(scores, valid)
    for tie_break in ("rank", "random", "index"):
        selected = highest(votes, ranks, valid, 60, tie_break, 0)  # type: ignore[arg-type]
        assert selected.tolist() == np.flatnonzero(valid).tolist()


def test_ties_go_to_the_higher_mean_rank_then_the_lower_index() -> None:
    scores, valid = scores_with_ties(80, 3, seed=1), np.ones(80, bool)
    votes = cast_votes(scores, valid, thresholds(scores, valid, 20))
    mean_rank = [
        np.mean(
            [(scores[:, k] < scores[i, k]).sum() + ((scores[:, k] == scores[i, k]).sum() + 1) / 2 for k in range(3)]
        )
        for i in range(80)
    ]
    ranks = percentile_ranks(scores, valid)
    np.testing.assert_allclose(ranks, np.array(mean_rank) / 80, rtol=1e-12)
    order = sorted(range(80), key=lambda i: (-votes[i], -ranks[i], i))
    assert highest(votes, ranks, valid, 16, "rank", 0).tolist() == sorted(order[:16])
    order = sorted(range(80), key=lambda i: (-votes[i], i))
    assert highest(votes, ranks, valid, 16, "index", 0).tolist() == sorted(order[:16])


def test_a_seeded_draw_repeats_and_differs_by_seed() -> None:
    votes, ranks, valid = np.zeros(200, np.int16), np.zeros(200), np.ones(200, bool)
    draws = [highest(votes, ranks, valid, 40, "random", seed).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    # The first numbers of PCG64(0) are fixed by its specification: this selection is the same on every machine.
    lottery = np.random.PCG64(0).random_raw(200)
    assert draws[0] == sorted(np.argsort(lottery)[:40].tolist())


@pytest.mark.parametrize(
    ("rows", "percent", "count"), [(2500, 20, 500), (665_298, 20, 133_059), (7, 20, 1), (3, 20, 0)]
)
def test_the_budget_is_the_published_one(rows: int, percent: float, count: int) -> None:
    assert budget(rows, percent) == count
