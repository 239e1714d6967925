"""Exact influence: the tasks' mean unit gradients, from the validation folders to the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.store.files import Array
from icons.store.fingerprint import digest
from icons.store.layout import RunFolder
from icons.store.rows import Manifest, read_manifest

if TYPE_CHECKING:
    import torch

DIRECTION = "direction."
"""A validation shard of an exact run holds, as DIRECTION + name, its valid rows' summed unit gradients of a tensor."""


def complete_task(config: Config, checkpoint: int | str, task: str) -> Manifest:
    """The manifest of a task's finished validation gradients; a UserError that names the command otherwise."""
    folder = RunFolder(config.output_dir).task(checkpoint, task)
    manifest = read_manifest(folder)
    if manifest is None or not manifest.complete:
        raise UserError(f"task {task} has no complete gradients in {folder}; run `icons val-grads --task {task}`")
    return manifest


def task_digest(manifest: Manifest) -> str:
    """16 hex digits for what a task's rows were made of and their bytes."""
    return digest({**manifest.fingerprint, "shards": [shard.checksum for shard in manifest.shards]})


def tasks_digest(config: Config, checkpoint: int | str) -> str:
    """The tasks that exact scores are made against, by name and content; part of the training rows' fingerprint."""
    digests = {task.name: task_digest(complete_task(config, checkpoint, task.name)) for task in config.tasks}
    return f"{','.join(digests)} {digest(digests)}"


def load_directions(
    config: Config, checkpoint: int | str, devices: Mapping[str, torch.device], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """LoRA tensor name -> [T, numel] mean unit gradients of all tasks, in the config's order.

    `devices` says where each is wanted. Raises UserError for a task without a valid row.
    """
    import torch

    directions: dict[str, torch.Tensor] = {}
    for position, task in enumerate(config.tasks):
        for name, mean in _mean_unit_gradient(config, checkpoint, task.name).items():
            if name not in directions:
                directions[name] = torch.zeros(len(config.tasks), mean.size, device=devices[name], dtype=dtype)
            directions[name][position] = torch.from_numpy(mean)
    return directions


def _mean_unit_gradient(config: Config, checkpoint: int | str, task: str) -> dict[str, Array]:
    folder = RunFolder(config.output_dir).task(checkpoint, task)
    count, sums = 0, dict[str, Array]()
    for shard in complete_task(config, checkpoint, task).shards:
        tensors = shard.read(folder, f"run `icons val-grads --task {task}`")
        count += int(tensors["valid"].sum())
        for key, total in tensors.items():
            if key.startswith(DIRECTION):
                name = key.removeprefix(DIRECTION)
                sums[name] = sums[name] + total if name in sums else total
    if count == 0:
        raise UserError(f"task {task} has no valid validation row; see {folder}/manifest.json for the reasons")
    return {name: np.asarray(total / np.float32(count), np.float32) for name, total in sums.items()}
