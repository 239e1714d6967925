"""The rows with the highest mean loss over their target tokens, at the last of the run's checkpoints."""

from __future__ import annotations

from icons.selection.registry import Evidence, Float64, method


@method("loss")
def loss(evidence: Evidence) -> Float64:
    return evidence.losses.astype(float)
