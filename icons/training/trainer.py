"""Fine-tuning with the Hugging Face Trainer: resumable, quiet, checkpoints that are whole or not counted."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from icons.errors import UserError
from icons.progress import Progress
from icons.training.samples import TrainingSamples

WHOLE = "complete"  # written last into a checkpoint; a folder without it was cut off and does not count


@dataclass(frozen=True)
class Recipe:
    """LLaVA-1.5's LoRA recipe (cosine, warm-up ratio 0.03, learning rate 2e-4) unless the config says otherwise."""

    steps: int
    learning_rate: float
    warmup_ratio: float
    batch_size: int
    save_steps: int
    seed: int
    bf16: bool
    on_cpu: bool


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in order of their step."""
    found = [path for path in folder.glob("checkpoint-*") if (path / WHOLE).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def fine_tune(model: nn.Module, samples: TrainingSamples, folder: Path, recipe: Recipe, title: str = "warmup") -> float:
    """Trains the parameters that ask for gradients, from the newest whole checkpoint on; returns the last logged loss.

    Leaves checkpoint-<step>/ (adapter or model, optimizer, scheduler, random states) every `save_steps` and at the
    end. Raises UserError naming the batch's rows when the loss is not finite.
    """
    done = checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in done:
            shutil.rmtree(path)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=0.0,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_ratio,
        bf16=recipe.bf16,
        use_cpu=recipe.on_cpu,
        **_checkpointing(recipe.on_cpu),
        save_steps=recipe.save_steps,
        logging_steps=max(1, min(10, recipe.steps // 10)),
        seed=recipe.seed,
        data_seed=recipe.seed,
        dataloader_num_workers=0 if recipe.on_cpu else min(8, os.cpu_count() or 1),
        dataloader_pin_memory=not recipe.on_cpu,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
    )
    # More GPUs would mean DataParallel and another batch size; several need `accelerate launch`.
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = _Trainer(model=model, args=arguments, train_dataset=samples, data_collator=samples.collate)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    reached = int(done[-1].name.removeprefix("checkpoint-")) if done else 0
    with Progress(title, recipe.steps, reached, "steps") as progress:
        trainer.add_callback(_Report(progress))
        trainer.train(resume_from_checkpoint=str(done[-1]) if done else None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return float(losses[-1]) if losses else math.nan


def _checkpointing(on_cpu: bool) -> dict[str, Any]:
    """Activation checkpointing on a GPU; the argument's name changed within transformers 5."""
    known = TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {} if on_cpu else {name: True, f"{name}_kwargs": {"use_reentrant": False}}


class _Trainer(Trainer):  # type: ignore[misc]
    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rows = inputs.pop("rows")
        result = super().compute_loss(model, inputs, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss):
            path = self.train_dataset.source.records.path
            raise UserError(
                f"{path} rows {', '.join(map(str, rows.tolist()))}: the loss of this training batch is not a finite "
                "number; check the weights for NaN"
            )
        return result


class _Report(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.advance(1)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for path in [*checkpoint.iterdir(), checkpoint]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        (checkpoint / WHOLE).touch()
