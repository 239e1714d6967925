"""What a page calls a run or a model, and when it says that chance can give a number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from icons.report.chance import is_beyond, unless_chance
from icons.report.naming import telling_name
from icons.selection.compare import Agreement


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/runs/llava-665k", "llava-665k"),
        ("/data/demo/run", "demo/run"),
        ("/data/demo/runs/final", "demo/runs/final"),
        ("/model", "model"),
        ("/models/llava-1.5-7b-hf", "llava-1.5-7b-hf"),
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
        ("/cache/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/" + "0a" * 20, "llava-hf/llava-1.5-7b-hf"),
        ("/train/checkpoint-500", "train/checkpoint-500"),
    ],
)
def test_a_name_says_which(path: str, name: str) -> None:
    assert telling_name(path) == name


def test_deviations_are_those_of_drawn_sets() -> None:
    drawn = np.random.default_rng(0)
    own = np.arange(100) < 30
    found = np.array([np.count_nonzero(own[drawn.permutation(100)[:20]]) for _ in range(20_000)])
    assert Agreement(30, 20, 6, 100).deviations == 0
    for both in (2, 9):
        expected = (both - found.mean()) / found.std()
        assert math.isclose(Agreement(30, 20, both, 100).deviations, expected, rel_tol=0.03)
    assert Agreement(100, 20, 20, 100).deviations == 0  # everything: nothing else was possible
    assert Agreement(5, 5, 3).deviations == 0


def test_of_few_rows_chance_is_named() -> None:
    few, many = Agreement(5, 5, 1, 100), Agreement(200, 200, 120, 1000)
    assert not is_beyond(few)
    assert is_beyond(many)
    assert unless_chance(many, many) == unless_chance() == ""
    assert unless_chance(few) == " (a random draw can give that)"
    assert unless_chance(few, few) == " (a random draw can give both)"
    assert unless_chance(few, many) == " (the former: a random draw can give that)"
    assert unless_chance(many, few) == " (the latter: a random draw can give that)"
