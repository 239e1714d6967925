"""The rows with the largest gradient: L2 norm of the whole LoRA gradient, before projection, at the last checkpoint.

GraNd (arXiv 2107.07075) scores a sample by this norm.
"""

from __future__ import annotations

from icons.selection.registry import Evidence, Float64, method


@method("grad-norm")
def grad_norm(evidence: Evidence) -> Float64:
    return evidence.norms.astype(float)
