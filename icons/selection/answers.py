"""Answers: whether a selection prefers some of a source's answers to others, against what a random draw would do.

The measure is the total variation distance of the answers' shares in the selection from those in the data. A draw
without any preference has a distance too, so that of random draws of the same size stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]

LONGEST = 60
"""Characters of an answer that are looked at."""
DRAWS = 200
"""Random draws that the selection is compared with."""
REPEATED = 5
"""Answers that occur less often in a source count as one together: there each is its own kind."""


def first_answer(record: Mapping[str, Any]) -> str:
    """The record's first answer, its beginning in one line; empty where there is none."""
    turns = record.get("conversations")
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("from") == "gpt" and isinstance(turn.get("value"), str):
            return " ".join(turn["value"][: 4 * LONGEST].split())[:LONGEST]
    return ""


@dataclass(frozen=True)
class SourceAnswers:
    """One source: records in the data and in the selection, distinct answers in both, its most frequent answers.

    `distance` is the total variation [0, 1], `by_chance` the mean of random draws of as many of its records, `most` the
    highest of them but for 1 in 40. `top` has (answer, its share in the data, in the selection), the most frequent of
    either first.
    """

    source: str
    in_data: int
    selected: int
    distinct: int
    distinct_selected: int
    distance: float
    by_chance: float
    most: float
    top: Sequence[tuple[str, float, float]]

    @property
    def skewed(self) -> bool:
        """Whether it prefers answers more than chance does, and by a tenth of the selection at least."""
        return self.distance > self.most and self.distance - self.by_chance > 0.1


def answers_by_source(
    sources: Sequence[str], source_N: Int32, answers: Sequence[str], answer_N: Int32, selected_N: Bool, top: int = 5
) -> list[SourceAnswers]:
    """Of each source with a repeated answer, in the order of their size; others say nothing about preferences."""
    rows = []
    for number in np.argsort(-np.bincount(source_N, minlength=len(sources)), kind="stable").tolist():
        own_N = source_N == number
        counts = np.bincount(answer_N[own_N], minlength=len(answers))
        repeated = np.flatnonzero(counts >= REPEATED)
        taken = np.bincount(answer_N[own_N & selected_N], minlength=len(answers))
        size = int(taken.sum())
        if len(repeated) < 2 or size == 0:
            continue
        kinds, picked = _with_the_rest(counts, repeated), _with_the_rest(taken, repeated)
        drawn = random_distances(kinds, size)
        first = sorted(repeated.tolist(), key=lambda at: (-max(counts[at] / counts.sum(), taken[at] / size), at))[:top]
        rows.append(
            SourceAnswers(
                sources[number],
                int(counts.sum()),
                size,
                int(np.count_nonzero(counts)),
                int(np.count_nonzero(taken)),
                distance(kinds, picked),
                float(drawn.mean()),
                float(np.quantile(drawn, 0.975)),
                [(answers[at], float(counts[at] / counts.sum()), float(taken[at] / size)) for at in first],
            )
        )
    return rows


def _with_the_rest(counts: Int64, kept: Int64) -> Int64:
    return np.append(counts[kept], counts.sum() - counts[kept].sum())


def distance(data_A: Int64, selected_A: Int64) -> float:
    """Total variation between two counts of the same answers, as shares."""
    return float(np.abs(data_A / data_A.sum() - selected_A / selected_A.sum()).sum() / 2)


def random_distances(data_A: Int64, size: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """[DRAWS]: of draws of `size` records without replacement."""
    lottery = np.random.Generator(np.random.PCG64(seed))
    drawn_DA = lottery.multivariate_hypergeometric(data_A, size, DRAWS, method="marginals")
    distances: npt.NDArray[np.float64] = np.abs(data_A / data_A.sum() - drawn_DA / size).sum(axis=1) / 2
    return distances


def mean_distance(rows: Sequence[SourceAnswers]) -> tuple[float, float]:
    """Over the sources, by how much of the selection they are: the distance and that by chance."""
    total = sum(row.selected for row in rows)
    if not total:
        return 0.0, 0.0
    average = sum(row.selected * row.distance for row in rows) / total
    return average, sum(row.selected * row.by_chance for row in rows) / total


class AnswerBook:
    """Numbers for answers as they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, answer: str) -> int:
        return self._numbers.setdefault(answer, len(self._numbers))

    @property
    def answers(self) -> list[str]:
        return list(self._numbers)
