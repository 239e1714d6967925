"""ICONS (arXiv 2501.00654, stage 2): for how many tasks a row is among the top p%."""

from __future__ import annotations

from icons.selection.registry import Evidence, Float64, method


@method("vote")
def vote(evidence: Evidence) -> Float64:
    return evidence.votes.astype(float)
