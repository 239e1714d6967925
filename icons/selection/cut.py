"""How far the cut of a selection is from arbitrary.

Values such as votes are equal for many rows, so the budget is used up inside a class of equal rows, of which the
tie-break takes some and leaves others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Cut:
    """The lowest value selected, how many rows are above it, how many have it, and how many of these were taken."""

    value: float
    above: int
    tie_class: int
    taken: int

    @property
    def share_by_tie_break(self) -> float:
        """Part of the selection that the tie-break decided; 0 when the whole class was taken."""
        return self.taken / (self.above + self.taken) if self.taken < self.tie_class else 0.0


def cut_of(values_N: npt.NDArray[np.float64], valid_N: npt.NDArray[np.bool_], selected: npt.NDArray[np.int64]) -> Cut:
    """The cut of `selected`, the valid rows with the highest values; at least one."""
    value = values_N[selected].min()
    above = int((valid_N & (values_N > value)).sum())
    return Cut(float(value), above, int((valid_N & (values_N == value)).sum()), len(selected) - above)
