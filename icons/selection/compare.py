"""How far two selections agree, and what chance alone would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """Sizes of two sets and of their intersection; `num_train` is the number of records both chose from, if known."""

    size_a: int
    size_b: int
    both: int
    num_train: int | None = None

    @property
    def share_a(self) -> float:
        return self.both / self.size_a if self.size_a else 0.0

    @property
    def share_b(self) -> float:
        return self.both / self.size_b if self.size_b else 0.0

    @property
    def jaccard(self) -> float:
        """|A and B| / |A or B|; 0 for two empty sets."""
        union = self.size_a + self.size_b - self.both
        return self.both / union if union else 0.0

    @property
    def expected(self) -> float | None:
        """Mean overlap of random selections of these sizes: |A| |B| / N (the hypergeometric mean)."""
        return self.size_a * self.size_b / self.num_train if self.num_train else None

    @property
    def deviations(self) -> float:
        """How many standard deviations of the hypergeometric distribution `both` is from `expected`, with its sign.

        0 where `num_train` is not known, or where nothing else than `both` was possible.
        """
        if not self.num_train or self.num_train < 2 or self.expected is None:
            return 0.0
        outside = (1 - self.size_a / self.num_train) * (self.num_train - self.size_b) / (self.num_train - 1)
        variance = self.expected * outside
        return (self.both - self.expected) / variance**0.5 if variance > 0 else 0.0


def agreement(a_N: Bool, b_N: Bool) -> Agreement:
    """Of two sets among the same N rows."""
    both = int(np.count_nonzero(a_N & b_N))
    return Agreement(int(np.count_nonzero(a_N)), int(np.count_nonzero(b_N)), both, len(a_N))


def shared(items_a: Int64, items_b: Int64) -> tuple[Bool, Bool]:
    """Which items of A [n] are also in B, and which of B [m] in A. Within each, items are distinct."""
    return np.isin(items_a, items_b), np.isin(items_b, items_a)


@dataclass(frozen=True)
class Row:
    """One line of a table: a group's members in A, in B, and in both."""

    group: str
    a: int
    b: int
    both: int


def by_group(groups_a: list[str], groups_b: list[str], in_both_A: Bool) -> list[Row]:
    """A row for each group, the largest (in A and B together) first, then by name.

    `groups_a` and `groups_b` name each item's group; `in_both_A` says which items of A are also in B. What is in both
    counts for its group in A.
    """
    totals: dict[str, list[int]] = {}
    for place, names in enumerate((groups_a, groups_b)):
        for name in names:
            totals.setdefault(name, [0, 0, 0])[place] += 1
    for position in np.flatnonzero(in_both_A):
        totals[groups_a[position]][2] += 1
    rows = [Row(name, *counts) for name, counts in totals.items()]
    return sorted(rows, key=lambda row: (-row.a - row.b, row.group))


def by_votes(votes_A: npt.NDArray[np.integer], in_both_A: Bool) -> list[tuple[int, int, int]]:
    """(votes, how many of the selection have that many, how many of these the other one has too), most votes first."""
    classes = []
    for votes in np.unique(votes_A)[::-1]:
        class_N = votes_A == votes
        classes.append((int(votes), int(class_N.sum()), int((class_N & in_both_A).sum())))
    return classes
