"""Ablation of ICONS (arXiv 2501.00654): a row's best score over the tasks."""

from __future__ import annotations

from icons.selection.registry import Evidence, Float64, method


@method("max")
def maximum(evidence: Evidence) -> Float64:
    values: Float64 = evidence.scores.max(axis=1).astype(float)
    return values
