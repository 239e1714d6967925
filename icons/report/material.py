"""All that the figures and findings of a page are made of, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from icons.report.cut import Cut, find_cut
from icons.report.traits import Traits
from icons.selection.compare import Bool
from icons.selection.consensus import thresholds
from icons.store.chosen import Chosen
from icons.store.facts import RowFacts


@dataclass(frozen=True)
class Material:
    """`focus` is the selection that the page is about, `others` are compared with it.

    `scores_NK` float32 with a column for each of `tasks`; `facts` is None where the gradient rows are gone, else those
    at `checkpoint`.
    """

    tasks: Sequence[str]
    scores_NK: npt.NDArray[np.float32]
    valid_N: Bool
    focus: Chosen
    others: Sequence[Chosen]
    traits: Traits
    facts: RowFacts | None
    checkpoint: str
    default_percent: float

    @cached_property
    def percent(self) -> float:
        """p of the tasks' own top p%."""
        written = self.focus.head.get("percent")
        return float(written) if isinstance(written, int | float) else self.default_percent

    @cached_property
    def tau(self) -> npt.NDArray[np.float64]:
        """The tasks' thresholds, as the selection has them where it was made by them."""
        written = self.focus.head.get("thresholds")
        if isinstance(written, dict) and set(self.tasks) <= written.keys():
            return np.array([written[task] for task in self.tasks], np.float64)
        return thresholds(self.scores_NK, self.valid_N, self.percent)

    @cached_property
    def own_tops(self) -> list[Bool]:
        """Each task's own top: the valid rows at or above its threshold."""
        return [
            np.asarray((column >= tau) & self.valid_N) for column, tau in zip(self.scores_NK.T, self.tau, strict=True)
        ]

    @cached_property
    def ranked_by(self) -> npt.NDArray[np.generic]:
        """What the method ranked by: its values, else the votes."""
        return self.focus.votes if self.focus.by_votes or self.focus.values is None else self.focus.values

    @cached_property
    def cut(self) -> Cut | None:
        if not self.focus.by_votes and self.focus.values is None:
            return None
        return find_cut(self.focus.head.get("cut"), self.ranked_by, self.focus.chosen, self.valid_N)
