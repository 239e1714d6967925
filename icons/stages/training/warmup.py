"""`icons warmup`: LoRA on a small random part of the data, so that gradients mean something.

ICONS (arXiv 2501.00654), stage 1: a warm-up on 5% of the data; the adapter it leaves is where gradients are taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icons.config import Config
from icons.errors import UserError
from icons.gradients.layers import ALL
from icons.progress import say
from icons.stages.specialist.fingerprints import require_counted
from icons.stages.training.fit import train
from icons.stages.training.job import Job
from icons.store.layout import RunFolder
from icons.training.processes import Processes

if TYPE_CHECKING:
    from icons.models.vlm import VisionLanguageModel


def warmup(config: Config) -> None:
    """Leaves warmup/checkpoint-<step>/ and warmup/final/; continues from the newest checkpoint."""
    if config.model.adapter is not None:
        if Processes.from_environment().main:
            say(f"warmup: nothing to do, model.adapter gives {config.model.adapter}")
        return
    job = Job(
        title="warmup",
        command="warmup",
        folder=RunFolder(config.output_dir).warmup,
        settings=config.warmup,
        rows=lambda records: _rows(config, len(records)),
        made_of={},
        check=lambda steps, exact: _require_checkpoints(config, steps, exact),
        try_model=_require_gradients,
    )
    train(config, job)


FEW_STEPS = 50
"""Of a warm-up; the paper's has some hundreds."""


def about_steps(config: Config, num_rows: int) -> str | None:
    """What to say of a warm-up of so few steps that its gradients mean little; None of a longer one."""
    steps = planned_steps(config, num_rows)
    if config.model.adapter is not None or steps >= FEW_STEPS:
        return None
    records = _part_size(config, num_rows)
    return (
        f"the warm-up has {steps} steps ({records} of {num_rows} records, {config.warmup.batch_size} a step); of fewer "
        f"than {FEW_STEPS} gradients mean little: raise warmup.fraction or warmup.epochs, or lower warmup.batch_size"
    )


def planned_steps(config: Config, num_rows: int) -> int:
    """Steps of the warm-up in one process, no record being bad and nothing pruned."""
    settings = config.warmup
    step_size = settings.batch_size * settings.gradient_accumulation
    steps = -(-_part_size(config, num_rows) // step_size) * settings.epochs
    return min(steps, settings.max_steps or steps)


def _part_size(config: Config, num_rows: int) -> int:
    return max(1, round(config.warmup.fraction * num_rows))


def _require_gradients(model: VisionLanguageModel) -> None:
    from icons.models.probe import require_gradients

    advice = "name layers that can be in model.lora.target_modules, such as [q_proj, k_proj, v_proj, o_proj]"
    require_gradients(model, ALL, advice)


def _rows(config: Config, num_rows: int) -> list[int]:
    """The random part; a UserError when the stages behind could not use the warm-up anyway."""
    from icons.training.samples import random_part

    if config.train.num_chunks > num_rows:
        raise UserError(
            f"train.num_chunks {config.train.num_chunks} exceeds the {num_rows} records of {config.train.title}"
        )
    require_counted(config, None)
    return random_part(num_rows, config.warmup.fraction, config.warmup.seed)


def _require_checkpoints(config: Config, steps: int, exact: bool) -> None:
    """Raises UserError before the training when a checkpoint that gradients are wanted at will not be written."""
    for checkpoint in config.gradients.checkpoints:
        written = checkpoint == "final" or (checkpoint == steps and exact)
        if not written and not (int(checkpoint) <= steps and int(checkpoint) % config.warmup.save_steps == 0):
            number = f"{steps} steps" if exact else f"{steps} steps or more, as training.pruning leaves them,"
            raise UserError(
                f"gradients.checkpoints: the warm-up will leave no checkpoint {checkpoint}; it has {number} and saves "
                f"every {config.warmup.save_steps} (warmup.save_steps) and at the end"
            )
