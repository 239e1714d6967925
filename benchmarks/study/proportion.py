"""Answers: how far a selection prefers some of a task's answers to others, and the vote when it cannot.

A diagnosis and no method: the skill of a record is read from its source, which real data do not have.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from icons.selection.consensus import cast_votes, highest, percentile_ranks, thresholds
from study.data import TASKS


def in_proportion(scores: Path, train: Path, target: Path, percent: float) -> None:
    """Writes the indices of the `percent` with most votes of each skill's each first answer, as a JSON list.

    Text-only records, whose answers are all kinds of words, are one class.
    """
    table = load_file(scores)
    valid_N = table["valid"].astype(bool)
    votes_N = cast_votes(table["scores"], valid_N, thresholds(table["scores"], valid_N, percent)).astype(np.float64)
    ranks_N = percentile_ranks(table["scores"], valid_N)
    classes = defaultdict(list)
    for row, skill_and_answer in enumerate(_answers(train)):
        classes[skill_and_answer].append(row)
    chosen: list[int] = []
    for rows in classes.values():
        count = round(percent / 100 * len(rows))
        own = highest(votes_N[rows], ranks_N[rows], valid_N[rows], count, "rank", seed=0)
        chosen += [rows[position] for position in own]
    target.write_text(json.dumps(sorted(chosen)))


def skew(train: Path, indices: list[int]) -> float:
    """Mean over the tasks of the distance (total variation, [0, 1]) of their answers' shares, selected and in all."""
    answers = _answers(train)
    distances = []
    for task in TASKS:
        everything = Counter(answer for skill, answer in answers if skill == task)
        selected = Counter(answers[row][1] for row in indices if answers[row][0] == task)
        if selected:
            parts = [selected[a] / selected.total() - everything[a] / everything.total() for a in everything]
            distances.append(sum(map(abs, parts)) / 2)
    return sum(distances) / len(distances) if distances else 1.0


def _answers(train: Path) -> list[tuple[str, str]]:
    """Each record's skill and first answer."""
    return [
        (record["source"].partition("-")[2], record["conversations"][1]["value"] if "image" in record else "")
        for record in json.loads(train.read_text())
    ]
