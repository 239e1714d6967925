"""SPICE as its formula reads, one candidate and one coordinate at a time (arXiv 2601.23155)."""

from __future__ import annotations

import math


def spice_picks(pool: list[list[float]], most: int, alpha: float, penalty: float, stop: float) -> list[int]:
    dims = range(len(pool[0]))
    den = [1.0 for _ in dims]
    picked: list[int] = []
    first = None
    while len(picked) < most:
        best, best_score, best_gain = None, -math.inf, 0.0
        for i, g in enumerate(pool):
            if i in picked or not any(g):
                continue
            gain = math.log(1 + alpha * sum(g[j] ** 2 / den[j] for j in dims))
            conflict = 0.0
            if picked:
                mean = [sum(pool[k][j] for k in picked) / len(picked) for j in dims]
                length = math.sqrt(sum(x * x for x in g)) * math.sqrt(sum(x * x for x in mean))
                cosine = sum(x * y for x, y in zip(g, mean, strict=True)) / length if length else 0.0
                conflict = abs(cosine) if cosine < 0 else 0.0
            if gain - penalty * conflict > best_score:
                best, best_score, best_gain = i, gain - penalty * conflict, gain
        if best is None or best_gain == 0 or (first is not None and best_gain <= stop * first):
            break
        first = best_gain if first is None else first
        picked.append(best)
        for j in dims:
            den[j] += alpha * (abs(pool[best][j]) * pool[best][j]) ** 2
    return picked
