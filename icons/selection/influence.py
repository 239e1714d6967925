"""Specialist: how well each training gradient points along a task's validation gradients.

ICONS (arXiv 2501.00654), stage 1: I_k[i, j] = cos(g_i, g'_j); the score of sample i for task k is the mean over j. With
unit rows that mean is g_i · mean_j g'_j, so scores need one vector per task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


BLOCK = 128
"""Training rows converted at once: at d = 5120 as float32 they fit in a core's cache, so memory is read once."""


def mean_direction(parts: Iterable[tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]]) -> Float32:
    """Mean of the valid unit rows of a task's gradients, [d] float32, from parts (rows [M, d], valid [M]).

    Raises ValueError without any.
    """
    count = 0
    total: npt.NDArray[np.float64] | float = 0.0
    for unit_MD, valid_M in parts:
        for start in range(0, len(unit_MD), BLOCK):
            here = valid_M[start : start + BLOCK]
            total = total + unit_MD[start : start + BLOCK][here].sum(axis=0, dtype=np.float64)
            count += int(here.sum())
    if count == 0:
        raise ValueError("no valid validation row")
    return np.asarray(total / count, np.float32)


def influence_scores(unit_ND: npt.NDArray[np.float16], directions_TD: Float32) -> Float32:
    """Scores [n, T]: mean cosine of each training row with each task's validation rows.

    By torch, which converts float16 some twenty times faster than NumPy does, and whose products do not depend on how
    many threads a library was started with. The few directions stand on the left: the other way round the product of a
    matrix this narrow takes one and a half to two times as long.
    """
    import torch

    rows_ND = torch.from_numpy(unit_ND)
    directions = torch.from_numpy(directions_TD).clone()  # in torch's own memory, aligned as in every run
    scores_TN = torch.empty(len(directions_TD), len(unit_ND))
    block_BD = torch.empty(BLOCK, unit_ND.shape[1])
    for start in range(0, len(unit_ND), BLOCK):
        rows = rows_ND[start : start + BLOCK]
        block_BD[: len(rows)].copy_(rows)
        scores_TN[:, start : start + BLOCK] = directions @ block_BD[: len(rows)].T
    scores: Float32 = scores_TN.T.contiguous().numpy()
    return scores


def influence_matrix(unit_ND: npt.NDArray[np.float16], unit_MD: npt.NDArray[np.float16]) -> Float32:
    """Cosines [n, M] of training with validation rows."""
    import torch

    matrix: Float32 = (torch.from_numpy(unit_ND).float() @ torch.from_numpy(unit_MD).float().T).numpy()
    return matrix


def merge_tasks(scores_NT: Float32, counts: Sequence[int]) -> Float32:
    """[n]: mean cosine with the validation rows of all tasks together, task t having `counts[t]` of them."""
    merged: Float32 = (scores_NT.astype(np.float64) * counts).sum(axis=1).astype(np.float32) / np.float32(sum(counts))
    return merged


def combine_groups(scores_NT: Float32, members: Sequence[Sequence[int]]) -> Float32:
    """One column per group of tasks: the element-wise maximum of its members' scores (MME in the paper)."""
    return np.stack([scores_NT[:, list(columns)].max(axis=1) for columns in members], axis=1)
