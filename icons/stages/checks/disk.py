"""How much of a disk a run will take."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from icons.config import Config
from icons.models.adapters import fresh_sizes
from icons.models.loading import meta_model
from icons.models.parts import projector_name

TRAINED_BYTES = 12
"""Of a parameter in a checkpoint: its value and AdamW's two moments, float32."""


@dataclass(frozen=True)
class Disk:
    """Bytes of the warm-up's checkpoints and of the gradient rows, all but file headers; `free` where they will lie."""

    warmup: int
    gradients: int
    free: int

    @property
    def needed(self) -> int:
        return self.warmup + self.gradients


def disk_of(config: Config, rows: int, warmup_steps: int) -> Disk:
    """`rows` are those of the training data and of all tasks; of a finished run the same as of a new one."""
    exact = config.gradients.exact
    row = 29 + (4 * len(config.tasks) if exact else 2 * config.gradients.dim)  # bytes of all its tensors
    checkpoints = 0 if config.model.adapter else -(-warmup_steps // config.warmup.save_steps) + 1  # and final/
    return Disk(
        checkpoints * TRAINED_BYTES * trained_parameters(config) if checkpoints else 0,
        rows * row * len(config.gradients.checkpoints),
        shutil.disk_usage(existing_parent(config.output_dir)).free,
    )


def trained_parameters(config: Config) -> int:
    """What the warm-up trains: the LoRA, and the projector unless it stays as it is."""
    count = sum(fresh_sizes(config.model).values())
    base = meta_model(config.model)
    name = projector_name(base) if config.warmup.projector_learning_rate is not None else None
    return count + (sum(weight.numel() for weight in base.get_submodule(name).parameters()) if name else 0)


def existing_parent(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(parent for parent in (path, *path.parents) if parent.exists())
