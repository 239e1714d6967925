"""How a selection is shared out among tasks, and which of its records are copies."""

from __future__ import annotations

import json

import numpy as np

from icons.selection.copies import Copies
from icons.selection.shares import nearest_tasks, passed_over, shared_out
from icons.stages.generalist.copies import MOST_COPIES, MOST_SHARDS, of_few_shards
from tests.conftest import Project
from tests.reference.selection import generalist


def test_a_row_counts_for_the_task_in_whose_ranking_it_stands_highest() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.3], [0.1, 0.2], [5.0, 9.0], [0.2, 0.25]], np.float32)
    valid = np.array([True, True, True, False, True])
    assert nearest_tasks(scores, valid).tolist() == [0, 1, 1, -1, 1]
    assert shared_out(nearest_tasks(scores, valid), np.array([0, 1, 4]), 2) == [1, 2]


def test_less_than_half_of_an_even_share_is_passed_over() -> None:
    assert passed_over([93, 88, 56, 1, 0, 0]) == [3, 4, 5]
    assert passed_over([30, 15, 45]) == []
    assert passed_over([10]) == []


def test_copies_have_the_same_pictures_and_words() -> None:
    turns = [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]
    copies = Copies()
    copies.see(3, {"id": 1, "image": "x.png", "conversations": turns})
    copies.see(5, {"id": 2, "image": "y.png", "conversations": turns})
    copies.see(8, {"id": 3, "image": "x.png", "conversations": [dict(turns[0], value=" a? "), turns[1]]})
    copies.see(9, {"id": 4, "image": "x.png", "conversations": [turns[0], dict(turns[1], value="c")]})
    assert copies.of == {8: 3}


def test_few_copiesof_few_shards_stand_for_all() -> None:
    starts = np.arange(0, 10_000, 100)
    rows = np.random.default_rng(0).permutation(10_000)[:6_000].tolist()
    chosen = of_few_shards(sorted(zip(rows[::2], rows[1::2], strict=True)), starts)
    assert len({row // 100 for pair in chosen for row in pair}) <= MOST_SHARDS
    assert len(chosen) > MOST_SHARDS // 2
    within = [(row, row + 1) for row in range(0, 1_600, 2)]
    assert len(of_few_shards(within[:400], starts)) == 400
    assert 250 < len(of_few_shards(within, starts)) <= MOST_COPIES


def test_generalist_counts_copies_and_warns_of_tasks_passed_over(project: Project) -> None:
    data = project.root / "data" / "train.json"
    records = json.loads(data.read_text())
    first = next(record for record in records if record["source"] == "colour")
    data.write_text(json.dumps([*records, *({**first, "id": f"copy-{n}"} for n in range(20))]))
    assert project.icons("run", "--set", "selection.percent=40").code == 0
    selection = generalist(project, percent=40, method="less", task="colour")
    assert selection["copies"]["rows"] >= 19
    assert selection["copies"]["gradients_alike"] == selection["copies"]["rows"]
    assert "are copies of others in the selection" in selection["said"]
    assert sum(selection["by_task"].values()) == 48
    outcome = project.icons("report")
    assert outcome.code == 0, outcome.err
