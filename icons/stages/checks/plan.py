"""What `icons run` is about to do, told before it: every file opened, every stage with its size, the disk it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icons.config import Config
from icons.data.records import Records
from icons.data.sets import open_records
from icons.errors import UserError
from icons.models.folders import model_folder
from icons.models.formats import input_format
from icons.models.loading import meta_model
from icons.models.place import pick_devices
from icons.models.quantization import require_bitsandbytes, weight_bytes
from icons.stages.checks.disk import Disk, disk_of
from icons.stages.generalist.evidence import selection_method
from icons.stages.specialist.checkpoints import checkpoint_weights
from icons.stages.specialist.fingerprints import require_counted
from icons.stages.training.fit import require_trainable
from icons.stages.training.warmup import about_steps, planned_steps
from icons.store.layout import RunFolder

GB = 1e9


@dataclass(frozen=True)
class Plan:
    """`stages`: name and size of each in order; `notes` what is allowed and yet rarely meant."""

    computing: str
    stages: list[tuple[str, str]]
    disk: Disk
    notes: list[str]

    def lines(self, output_dir: Path) -> list[str]:
        """For a person."""
        disk = self.disk
        widest = max(len(name) for name, _ in self.stages)
        return [
            f"plan: {output_dir}, {self.computing}",
            *(f"  {at} {name:<{widest}}  {size}".rstrip() for at, (name, size) in enumerate(self.stages, 1)),
            f"  disk: {_gb(disk.needed)} (warm-up {_gb(disk.warmup)}, gradients {_gb(disk.gradients)}), "
            f"{_gb(disk.free)} free",
            *(f"  ! {note}" for note in self.notes),
        ]


def plan(config: Config) -> Plan:
    """Opens every data file, the model's and the plugin's files, as the stages will; no weights are loaded.

    Raises UserError for what would stop the run later: a file that cannot be read, records of no form that is read, a
    method that is not there, a checkpoint that the warm-up will not leave, gradients.dim or gradients.layers above what
    the model has, a device or package that is missing.
    """
    selection_method(config)
    train = open_records(config.train.parts)
    tasks = {task.name: open_records(task.parts) for task in config.tasks}
    for task in config.evaluation.tasks:
        open_records(task.parts)
    inputs = input_format(model_folder(config.model.base), config.model)
    adapter = RunFolder(config.output_dir).adapter(config.gradients.checkpoints[-1], config.model.adapter)
    lora = require_counted(config, None if config.model.adapter is None else adapter)
    if config.train.num_chunks > len(train):
        raise UserError(
            f"train.num_chunks {config.train.num_chunks} exceeds the {len(train)} records of {config.train.title}"
        )
    if (RunFolder(config.output_dir).warmup / "final").is_dir() or config.model.adapter is not None:
        checkpoint_weights(config)
    else:
        require_trainable(config)
    require_bitsandbytes(config.model)
    steps = planned_steps(config, len(train))
    rows = len(train) + sum(map(len, tasks.values()))
    places = pick_devices(config.model)
    budget = config.gradients.tokens_per_batch
    tokens = (
        f"{budget or 2048:,} tokens a batch" if budget or places[0].type == "cpu" else "tokens a batch by its memory"
    )
    about = [about_steps(config, len(train)), *inputs.warnings]
    return Plan(
        ", ".join([f"on {', '.join(map(str, places))}", _weights(config), *lora.phrases, tokens]),
        _stages(config, train, tasks, steps),
        disk_of(config, rows, steps),
        [note for note in about if note],
    )


def _weights(config: Config) -> str:
    """`bfloat16, weights of 14.1 GB`."""
    quantized = f" in {config.model.quantization}" if config.model.quantization else ""
    return f"{config.model.dtype}, weights of {_gb(weight_bytes(config.model, meta_model(config.model)))}{quantized}"


def _stages(config: Config, train: Records, tasks: dict[str, Records], steps: int) -> list[tuple[str, str]]:
    chunks, checkpoints = config.train.num_chunks, len(config.gradients.checkpoints)
    times = f", at {checkpoints} checkpoints" if checkpoints > 1 else ""
    pieces = f" in {chunks} chunks" if chunks > 1 else ""
    adapter = f"nothing to do, model.adapter is {config.model.adapter}"
    select = config.selection
    return [
        ("warmup", adapter if config.model.adapter else f"{steps} steps of {config.warmup.batch_size} records"),
        ("val-grads", f"{sum(map(len, tasks.values())):,} records of {len(tasks)} tasks{times}"),
        ("train-grads", f"{len(train):,} records ({train.container}, {train.form}){pieces}{times}"),
        ("merge", ""),
        ("specialist", "scores and matrices" if config.influence.save_matrix else "scores"),
        ("generalist", f"{select.percent:g}% by {select.method}, as {select.name}"),
        ("report", ""),
    ]


def _gb(count: int) -> str:
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 1e6:.0f} MB"
