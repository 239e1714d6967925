"""Ablation of ICONS (arXiv 2501.00654): the mean of a row's scores over the tasks."""

from __future__ import annotations

import numpy as np

from icons.selection.registry import Evidence, Float64, method


@method("mean")
def mean(evidence: Evidence) -> Float64:
    values: Float64 = evidence.scores.mean(axis=1, dtype=np.float64)
    return values
