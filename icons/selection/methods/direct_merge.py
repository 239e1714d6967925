"""Ablation of ICONS (arXiv 2501.00654): all validation sets as one task.

The mean cosine with all validation rows together: sum_t M_t s_t / sum_t M_t, single task t having M_t valid rows.
"""

from __future__ import annotations

from icons.selection.registry import Evidence, Float64, method


@method("direct-merge")
def direct_merge(evidence: Evidence) -> Float64:
    return evidence.merged.astype(float)
