"""What a training is made with: its settings, and the Trainer's arguments and optimizer that follow from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from icons.training.infobatch import InfoBatch
from icons.training.processes import Processes


@dataclass(frozen=True)
class Recipe:
    """LLaVA-1.5's LoRA recipe (cosine, warm-up ratio 0.03, learning rate 2e-4) unless the config says otherwise.

    `batch_size` is that of each process. `projector_learning_rate` is for what PEFT trains beside the LoRA; None: all
    that asks for gradients has one rate. Of the checkpoints the newest `keep` stay, by default all. With `pruning`
    (packed samples alone) `steps` are those of the training without it, of which some are saved.
    """

    steps: int
    learning_rate: float
    warmup_ratio: float
    batch_size: int
    save_steps: int
    seed: int
    bf16: bool
    on_cpu: bool
    projector_learning_rate: float | None = None
    gradient_accumulation: int = 1
    keep: int | None = None
    pruning: InfoBatch | None = None


def training_arguments(folder: Path, recipe: Recipe, processes: Processes) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_ratio,
        bf16=recipe.bf16,
        use_cpu=recipe.on_cpu,
        **_checkpointing(recipe.on_cpu),
        save_steps=recipe.save_steps,
        logging_steps=max(1, min(10, recipe.steps // 10)),
        seed=recipe.seed,
        data_seed=recipe.seed,
        dataloader_num_workers=0 if recipe.on_cpu else min(8, max(1, (os.cpu_count() or 1) // processes.count)),
        dataloader_pin_memory=not recipe.on_cpu,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ignore_data_skip=recipe.pruning is not None,  # PrunedEpochs begins where it ended, also within an epoch
        report_to=[],
        disable_tqdm=True,
    )
    # More GPUs would mean DataParallel and another batch size; several need `accelerate launch`.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW without decay. First group: the LoRA, in the order of the model's parameters; second: the projector."""
    beside = beside_the_lora(model)
    ids = {id(parameter) for parameter in beside}
    first = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in ids]
    groups: list[dict[str, Any]] = [{"params": first, "lr": recipe.learning_rate}]
    if beside:
        groups.append({"params": beside, "lr": recipe.projector_learning_rate or recipe.learning_rate})
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)


def beside_the_lora(model: nn.Module) -> list[nn.Parameter]:
    """What PEFT trains in full: the projector, or nothing."""
    named = model.named_parameters()
    return [parameter for name, parameter in named if parameter.requires_grad and ".modules_to_save." in name]


def _checkpointing(on_cpu: bool) -> dict[str, Any]:
    """Activation checkpointing on a GPU; the argument's name changed within transformers 5."""
    fields = TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    return {} if on_cpu else {name: True, f"{name}_kwargs": {"use_reentrant": False}}
