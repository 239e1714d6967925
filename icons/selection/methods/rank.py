"""Ablation of ICONS (arXiv 2501.00654): the mean over the tasks of a row's rank among the valid rows."""

from __future__ import annotations

from icons.selection.consensus import percentile_ranks
from icons.selection.registry import Evidence, Float64, method


@method("rank")
def rank(evidence: Evidence) -> Float64:
    return percentile_ranks(evidence.scores, evidence.valid)
