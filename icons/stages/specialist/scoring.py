"""Scores of one training shard: read, checked, compared with every task's direction; several shards at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.selection.influence import Float32, influence_matrix, influence_scores, mean_direction
from icons.stages.specialist.checkpoints import checkpoint_weights
from icons.stages.specialist.directions import complete_task
from icons.store.files import Array
from icons.store.index import Index, recompute
from icons.store.layout import RunFolder
from icons.store.tensors import Memory

T = TypeVar("T")

_of_thread = threading.local()


@dataclass(frozen=True)
class TaskRows:
    """A task at one checkpoint: the mean of its valid unit rows [d], and where the rows lie."""

    direction: Float32
    folder: Path
    unit: Array | None  # [M, d] float16, invalid rows zero; kept where matrices are wanted


@dataclass(frozen=True)
class Source:
    """The rows of one checkpoint, its weight in the sum, and the tasks to compare with (none: scores are exact)."""

    index: Index
    weight: float
    tasks: dict[str, TaskRows]


@dataclass(frozen=True)
class ShardScores:
    """Scores [n, T], losses and norms [n] float32 of a shard's rows, 0 where not `valid` [n].

    Losses and norms are those at the last checkpoint; matrices [n, M] float16 by task, if wanted.
    """

    rows: Array
    scores: Float32
    valid: Array
    losses: Float32
    norms: Float32
    matrices: dict[str, Array]


def load_sources(config: Config, indices: list[Index], *, matrices: bool) -> list[Source]:
    """Every checkpoint's tasks read; a UserError for a task without a valid row."""
    exact, weights = config.gradients.exact, checkpoint_weights(config)
    return [
        Source(
            index,
            weight,
            {} if exact else {task.name: _load_task(config, checkpoint, task.name, matrices) for task in config.tasks},
        )
        for checkpoint, index, weight in zip(config.gradients.checkpoints, indices, weights, strict=True)
    ]


def score_shard(sources: list[Source], number: int, tasks: int, *, matrices: bool) -> ShardScores:
    """The scores of training shard `number`, summed over the checkpoints with their weights.

    Raises UserError for a shard that is not as it was written, holds other rows, or numbers that are not finite.
    """
    if not hasattr(_of_thread, "memories"):
        _of_thread.memories = [Memory() for _ in sources]
    read = [
        _read_training_shard(source, number, memory)
        for source, memory in zip(sources, _of_thread.memories, strict=True)
    ]
    valid = np.logical_and.reduce([tensors["valid"] for tensors in read])
    scores: Float32 = np.zeros((len(valid), tasks), np.float32)
    for source, tensors in zip(sources, read, strict=True):
        scores += np.float32(source.weight) * _scores(source, tensors)
    scores[~valid] = 0
    if not np.isfinite(scores).all():
        path = sources[0].index.path(sources[0].index.shards[number])
        raise UserError(f"{path} or its like holds numbers that are not finite; delete its chunk and compute it again")
    by_task = {name: _matrix(sources, read, name) for name in sources[0].tasks} if matrices else {}
    losses, norms = (np.where(valid, read[-1][name], np.float32(0)) for name in ("losses", "norms"))
    return ShardScores(read[0]["rows"].copy(), scores, valid, losses, norms, by_task)


def in_order(work: Callable[[int], T], numbers: Iterable[int], threads: int) -> Iterator[T]:
    """What `work` returns for each number, in their order, made by so many threads ahead of the caller."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(work, number))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _load_task(config: Config, checkpoint: int | str, name: str, keep_rows: bool) -> TaskRows:
    folder = RunFolder(config.output_dir).task(checkpoint, name)
    kept: list[Array] = []

    def parts() -> Iterator[tuple[Array, Array]]:
        for shard in complete_task(config, checkpoint, name).shards:
            tensors = shard.read(folder, f"run `icons val-grads --task {name}`", ["grads", "valid"])
            if keep_rows:
                kept.append(tensors["grads"])
            yield tensors["grads"], tensors["valid"]

    try:
        direction = mean_direction(parts())
    except ValueError:
        raise UserError(
            f"task {name} has no valid validation row; see {folder}/manifest.json for the reasons"
        ) from None
    return TaskRows(direction, folder, np.concatenate(kept) if kept else None)


def _read_training_shard(source: Source, number: int, memory: Memory) -> dict[str, Array]:
    shard = source.index.shards[number]
    names = ["rows", "valid", "losses", "norms", "grads" if source.tasks else "scores"]
    tensors = shard.read(source.index.folder, recompute(shard), names, memory)
    if not np.array_equal(tensors["rows"], np.arange(shard.start, shard.stop)):
        path = source.index.path(shard)
        raise UserError(f"{path} does not hold rows {shard.start} to {shard.stop - 1}; delete its chunk's folder")
    return tensors


def _scores(source: Source, tensors: dict[str, Array]) -> Float32:
    """[n, T] of one checkpoint."""
    if not source.tasks:
        return tensors["scores"]
    return influence_scores(tensors["grads"], np.stack([task.direction for task in source.tasks.values()]))


def _matrix(sources: list[Source], read: list[dict[str, Array]], name: str) -> Array:
    """The cosines [n, M] with a task's validation rows, summed over checkpoints, float16."""
    total: Float32 | float = 0.0
    for source, tensors in zip(sources, read, strict=True):
        unit = source.tasks[name].unit
        assert unit is not None
        total = total + np.float32(source.weight) * influence_matrix(tensors["grads"], unit)
    return np.asarray(total, np.float16)
