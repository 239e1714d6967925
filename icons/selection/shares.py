"""How a selection is shared out among the tasks: each row counts for the task in whose ranking it stands highest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from icons.selection.consensus import Bool, Int64


def nearest_tasks(scores_NK: npt.NDArray[np.float32], valid_N: Bool) -> Int64:
    """[N]: the column with a row's best rank among the valid rows, the first of equal ones; -1 where not valid."""
    ranks_KV = np.empty((scores_NK.shape[1], int(valid_N.sum())), np.int32)
    for column, scores_N in enumerate(scores_NK.T):
        order_V = np.argsort(-scores_N[valid_N], kind="stable")
        ranks_KV[column, order_V] = np.arange(len(order_V))
    nearest: Int64 = np.full(len(valid_N), -1, np.int64)
    nearest[valid_N] = ranks_KV.argmin(axis=0)
    return nearest


def shared_out(nearest_N: Int64, rows: Int64, tasks: int) -> list[int]:
    """How many of `rows` count for each task."""
    counts: list[int] = np.bincount(nearest_N[rows], minlength=tasks).tolist()
    return counts


def passed_over(counts: list[int]) -> list[int]:
    """The tasks that get less than half of an even share."""
    return [task for task, count in enumerate(counts) if 2 * count * len(counts) < sum(counts)]
