"""All that the figures and findings of a page are made of, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from icons.evaluation.measures import Answers
from icons.report.traits import Traits
from icons.selection.compare import Bool
from icons.selection.cut import Cut
from icons.store.scores import Scores
from icons.store.selection import StoredSelection


@dataclass(frozen=True)
class Material:
    """`focus` is the selection that the page is about, `others` are compared with it.

    `scores` has a column for each of `tasks`, and norms and losses at `checkpoint`; `tokens_N` int32 is the number of
    predicted tokens, None where the gradient rows are gone. `noise` has the projection's error of a score for each
    task, 0 for exact scores and where it is no longer known; `samples` counts the valid validation samples of each
    task, empty where their rows are gone; `results` has what trained models answered: model -> task -> answers.
    """

    scores: Scores
    focus: StoredSelection
    others: Sequence[StoredSelection]
    traits: Traits
    tokens_N: npt.NDArray[np.int32] | None
    checkpoint: str
    noise: Sequence[float] = ()
    samples: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, Answers]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        return self.scores.columns

    @property
    def valid(self) -> Bool:
        return self.scores.valid

    @cached_property
    def percent(self) -> float:
        """p of the tasks' own top p%."""
        return float(self.focus.head["percent"])

    @cached_property
    def tau(self) -> npt.NDArray[np.float64]:
        """The tasks' thresholds, as the selection's file has them."""
        return np.array([self.focus.head["thresholds"][task] for task in self.tasks], np.float64)

    @cached_property
    def own_tops(self) -> list[Bool]:
        """Each task's own top: the valid rows at or above its threshold."""
        columns = zip(self.scores.scores.T, self.tau, strict=True)
        return [np.asarray((column >= tau) & self.valid) for column, tau in columns]

    @cached_property
    def cut(self) -> Cut:
        """As the selection's file has it."""
        return self.focus.cut

    @cached_property
    def ranked(self) -> bool:
        """Whether there is an order among the chosen: not for a method that says of each only that it is in."""
        values = self.focus.values[self.focus.selected]
        return self.focus.by_votes or bool(values.min() < values.max())
