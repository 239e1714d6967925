"""Ablation of ICONS (arXiv 2501.00654): the mean of a row's scores, each task's brought to mean 0 and deviation 1."""

from __future__ import annotations

import numpy as np

from icons.selection.registry import Evidence, Float64, method


@method("norm")
def norm(evidence: Evidence) -> Float64:
    total_N: Float64 = np.zeros(len(evidence.valid))
    for scores_N in evidence.scores.T:
        known_V = scores_N[evidence.valid].astype(np.float64)
        deviation = known_V.std()
        if deviation > 0:  # a task that likes all rows alike says nothing
            total_N[evidence.valid] += (known_V - known_V.mean()) / deviation
    total_N /= evidence.scores.shape[1]
    return total_N
