"""Proportional voting and coverage as plain loops over their formulas, with exact fractions and the math module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def approvals(influence: Sequence[Sequence[float]], depth: int) -> list[set[int]]:
    """Of each voter (a row of `influence`) its `depth` best training rows; of equal ones the lower."""
    return [set(sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:depth]) for row in influence]


def proportional(approved: list[set[int]], columns: Sequence[int], count: int, order: Sequence[int]) -> list[int]:
    seats = [0] * len(approved)
    taken: list[int] = []
    while len(taken) < count:
        gains = {}
        for row in set().union(*approved) - set(taken):
            gains[row] = sum(
                Fraction(1, list(columns).count(columns[j])) / (1 + seats[j])
                for j in range(len(approved))
                if row in approved[j]
            )
        if not gains:
            break
        best = min(gains, key=lambda row: (-gains[row], order[row]))
        taken.append(best)
        for j in range(len(approved)):
            seats[j] += best in approved[j]
    return taken


def coverage(influence: Sequence[Sequence[float]], columns: Sequence[int], count: int) -> list[int]:
    rows, taken = len(influence[0]), list[int]()
    support = []
    for row in influence:
        mean = math.fsum(row) / rows
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in row) / rows)
        support.append([max(0.0, (value - mean) / deviation) for value in row])
    weights = [1 / list(columns).count(column) for column in columns]
    have = [0.0] * len(influence)
    while len(taken) < count:
        gains = {
            i: math.fsum(
                w * (math.log(1 + h + s[i]) - math.log(1 + h)) for w, h, s in zip(weights, have, support, strict=True)
            )
            for i in range(rows)
            if i not in taken
        }
        best = max(gains, key=lambda i: gains[i])
        taken.append(best)
        have = [h + s[best] for h, s in zip(have, support, strict=True)]
    return taken
