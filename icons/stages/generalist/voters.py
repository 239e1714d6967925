"""The validation samples as voters, read from the store: what `proportional` and `coverage` ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icons.config import Config
from icons.cores import reading_threads, torch_on_one_thread
from icons.models.place import pick_device
from icons.progress import Progress
from icons.selection.voters import Block, Bool, Voters
from icons.stages.specialist.checkpoints import checkpoint_weights
from icons.stages.specialist.directions import complete_task
from icons.stages.specialist.scoring import in_order
from icons.store.files import Array
from icons.store.index import Index, read_index, recompute
from icons.store.layout import RunFolder
from icons.store.tensors import Memory

PIECE = 512
"""Training rows that are widened to float32 at a time."""


@dataclass(frozen=True)
class _Side:
    """One checkpoint: its weight in the sum, the training rows, the voters' unit rows [M, d] float32."""

    weight: float
    index: Index
    unit_MD: Tensor


def open_voters(config: Config, half: int | None = None) -> Voters:
    """Every valid validation row, or (`half` 0 or 1) the even or the odd ones of each task.

    Raises UserError when a task's rows are missing or damaged; the training rows are read with the blocks."""
    device = pick_device(config.model.device)
    read = {
        checkpoint: [_task_rows(config, checkpoint, task.name) for task in config.tasks]
        for checkpoint in config.gradients.checkpoints
    }
    valid = [np.logical_and.reduce([rows[at][1] for rows in read.values()]) for at in range(len(config.tasks))]
    if half is not None:
        valid = [_every_other(valid_M, half) for valid_M in valid]
    sides = []
    for (checkpoint, rows), weight in zip(read.items(), checkpoint_weights(config), strict=True):
        unit = np.concatenate([unit_MD[counts_M] for (unit_MD, _), counts_M in zip(rows, valid, strict=True)])
        index = read_index(RunFolder(config.output_dir).index(checkpoint))
        sides.append(_Side(weight, index, torch.from_numpy(unit).float().to(device)))
    names = list(config.columns)
    column = {task: names.index(name) for name, members in config.columns.items() for task in members}
    counts = [int(valid_M.sum()) for valid_M in valid]
    columns = np.repeat([column[task.name] for task in config.tasks], counts)
    return Voters(columns, lambda thin: _blocks(sides, device, thin))


def _every_other(valid_M: Bool, half: int) -> Bool:
    kept = np.zeros_like(valid_M)
    kept[np.flatnonzero(valid_M)[half::2]] = True
    return kept


def _task_rows(config: Config, checkpoint: int | str, task: str) -> tuple[Array, Bool]:
    """Unit rows [M, d] float16 and which are valid [M]."""
    folder, again = RunFolder(config.output_dir).task(checkpoint, task), f"run `icons val-grads --task {task}`"
    shards = [shard.read(folder, again, ["grads", "valid"]) for shard in complete_task(config, checkpoint, task).shards]
    return np.concatenate([s["grads"] for s in shards]), np.concatenate([s["valid"] for s in shards])


def _blocks(sides: list[_Side], device: torch.device, thin: int) -> Iterator[Block]:
    """A block a training shard, in order; the next ones are computed while this one is looked at."""
    shards = sides[0].index.shards
    threads = 1 if device.type == "cuda" else reading_threads()

    def work(number: int) -> Block:
        memory = Memory()
        parts = [_training_rows(side.index, number, memory if len(sides) == 1 else Memory()) for side in sides]
        valid = np.logical_and.reduce([part["valid"] for part in parts])
        rows = np.flatnonzero(valid)[::thin]
        influence = torch.zeros(len(sides[0].unit_MD), len(rows), device=device)
        for side, part in zip(sides, parts, strict=True):
            unit = torch.from_numpy(part["grads"])
            for start in range(0, len(rows), PIECE):
                at = rows[start : start + PIECE]
                wide_nD = unit[torch.from_numpy(at)].to(device).float()
                influence[:, start : start + PIECE].addmm_(side.unit_MD, wide_nD.T, alpha=side.weight)
        return Block(rows + shards[number].start, influence)

    with torch_on_one_thread(), Progress("voters", sides[0].index.num_rows, unit="rows") as bar:
        for shard, block in zip(shards, in_order(work, range(len(shards)), threads), strict=True):
            bar.advance(shard.stop - shard.start)
            if len(block.rows):
                yield block


def _training_rows(index: Index, number: int, memory: Memory) -> dict[str, Array]:
    shard = index.shards[number]
    return shard.read(index.folder, recompute(shard), ["grads", "valid"], memory)
