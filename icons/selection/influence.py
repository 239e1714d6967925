"""Specialist: how well each training gradient points along a task's validation gradients.

ICONS (arXiv 2501.00654), stage 1: I_k[i, j] = cos(g_i, g'_j); the score of sample i for task k is the mean over j. With
unit rows that mean is g_i · mean_j g'_j, so scores need one vector per task.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


def mean_direction(unit_MD: npt.NDArray[np.float16], valid_M: npt.NDArray[np.bool_]) -> Float32:
    """Mean of the valid unit rows of a task's validation gradients: [d] float32. Raises ValueError without any."""
    if not valid_M.any():
        raise ValueError("no valid validation row")
    mean: Float32 = unit_MD[valid_M].astype(np.float32).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def influence_scores(unit_ND: Float32, directions_TD: Float32) -> Float32:
    """Scores [n, T]: mean cosine of each training row with each task's validation rows."""
    return unit_ND @ directions_TD.T


def influence_matrix(unit_ND: Float32, unit_MD: npt.NDArray[np.float16]) -> Float32:
    """Cosines [n, M] of training with validation rows."""
    return unit_ND @ unit_MD.astype(np.float32).T


def combine_groups(scores_NT: Float32, members: Sequence[Sequence[int]]) -> Float32:
    """One column per group of tasks: the element-wise maximum of its members' scores (MME in the paper)."""
    return np.stack([scores_NT[:, list(columns)].max(axis=1) for columns in members], axis=1)
