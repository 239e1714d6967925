"""LoRA adapters: fresh, or from a PEFT folder with every mismatch refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icons.config import LoraConfig, ModelConfig
from icons.errors import UserError
from icons.gradients.lora import lora_pairs
from icons.models.folders import adapter_shapes, convert_first
from icons.models.foreign import reading
from icons.models.loading import meta_model
from icons.models.parts import is_language, language_linears, language_model_name
from icons.models.vlm import VisionLanguageModel
from icons.plain import in_line


def attach_fresh_lora(
    model: VisionLanguageModel, config: LoraConfig, *, projector: str | None = None
) -> VisionLanguageModel:
    """A new, trainable LoRA on `target_modules`, by default every linear layer of the language model.

    `projector`, a module path, is trained in full beside it and saved with the adapter (PEFT's `modules_to_save`).
    All that is trained is float32, in a bfloat16 model too: steps of 2e-5 would be lost to bfloat16's rounding (PEFT
    does this for LoRA alone). Such a model needs autocast in training.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    targets = list(_lora_targets(model.base, config))
    # Full names: a suffix such as q_proj would match the vision tower too.
    settings = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        modules_to_save=None if projector is None else [projector],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        try:
            peft = get_peft_model(model.base, settings)
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model.lora: PEFT cannot adapt {type(model.base).__name__} ({reason})") from None
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return replace(model, peft=peft)


def fresh_sizes(config: ModelConfig) -> dict[str, int]:
    """Module path -> LoRA parameters of each layer that `attach_fresh_lora` would adapt."""
    layers = _lora_targets(meta_model(config), config.lora)
    return {name: config.lora.r * (layer.in_features + layer.out_features) for name, layer in layers.items()}


def _lora_targets(base: nn.Module, config: LoraConfig) -> dict[str, nn.Linear]:
    """The linear layers of the language model that `target_modules` names, or all of them; a UserError when none."""
    linear = language_linears(base)
    suffixes = config.target_modules
    if suffixes is not None:
        linear = {n: module for n, module in linear.items() if any(n == w or n.endswith(f".{w}") for w in suffixes)}
    if not linear:
        raise UserError(f"model.lora.target_modules: {suffixes} match no linear layer of the language model")
    return linear


def attach_adapter(model: VisionLanguageModel, folder: Path) -> VisionLanguageModel:
    """The adapter of a PEFT folder, frozen; with it the projector, where the folder holds a trained one.

    Raises UserError when its tensors are not exactly those of the model.
    """
    from peft import PeftModel

    with torch.device("meta"):
        bare = type(model.base)(deepcopy(model.base.config))
    require_fit(folder, bare)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with reading(f"adapter {folder} cannot be loaded"):
            peft = PeftModel.from_pretrained(model.base, folder, is_trainable=False, torch_device=str(model.device))
    for parameter in _whole_modules(peft).values():  # trained in float32, used beside layers of the model's own dtype
        parameter.data = parameter.data.to(model.base.dtype)
    return replace(model, peft=peft.requires_grad_(False).eval())


def require_fit(folder: Path, bare: nn.Module) -> None:
    """Raises UserError unless an adapter's tensors are, by name and shape, exactly those that PEFT would give `bare`.

    `bare` is the model on the meta device, which the adapter's layers are put into. Only the file's header is read.
    """
    from peft import PeftConfig, get_peft_model

    stored = adapter_shapes(folder)
    if _is_original_llava(stored, bare):
        raise UserError(convert_first(folder))
    inside = language_model_name(bare)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with reading(f"adapter {folder} does not fit the model"):
            peft = get_peft_model(bare, PeftConfig.from_pretrained(folder))
    try:
        pairs = lora_pairs(peft)
    except ValueError as error:
        raise UserError(f"adapter {folder} is not supported: {error}") from None
    outside = [pair.name for pair in pairs if not is_language(pair.name, inside)]
    if outside:
        raise UserError(
            f"adapter {folder} has {len(outside)} LoRA layers outside the language model (the first is {outside[0]}); "
            "gradients are taken of the language model's alone"
        )
    expected = {name: tuple(parameter.shape) for pair in pairs for name, parameter in pair.tensors}
    expected |= {name: tuple(parameter.shape) for name, parameter in _whole_modules(peft).items()}
    strangers, absent = sorted(stored.keys() - expected.keys()), sorted(expected.keys() - stored.keys())
    if strangers or absent:
        if layout := _older_layout(stored):
            raise UserError(f"adapter {folder} has {layout}; save it again with today's PEFT")
        example = f"unknown to the model: {strangers[0]}" if strangers else f"not in the adapter: {absent[0]}"
        count = len(strangers) + len(absent)
        raise UserError(f"adapter {folder} does not fit the model: {count} tensor names differ ({example})")
    for name, shape in stored.items():
        if shape != expected[name]:
            raise UserError(f"adapter {folder} does not fit the model: {name} is {shape}, expected {expected[name]}")


def _older_layout(names: Iterable[str]) -> str | None:
    """What an adapter's names are like, where they are like those of an earlier PEFT or of another library."""
    names = list(names)
    if any(re.search(r"\.lora_[AB]\.\w+\.weight$", name) for name in names):
        return "the adapter's name within its tensors' names (lora_A.default.weight), as a model's own state dict has"
    if any("lora_up." in name or "lora_down." in name for name in names):
        return "tensors called lora_up and lora_down, as diffusion libraries write them"
    if names and not any(name.startswith("base_model.model.") for name in names):
        return f"tensors without PEFT's prefix base_model.model. (the first is {in_line(names[0])})"
    return None


def _is_original_llava(names: Iterable[str], base: Any) -> bool:
    """Whether an adapter's names are those of LLaVA's own code, whose language model has no name within the model."""
    return language_model_name(base) != "model" and any(n.startswith("base_model.model.model.layers.") for n in names)


def _whole_modules(peft: nn.Module) -> dict[str, nn.Parameter]:
    """Name in the adapter file -> parameter of the modules that the adapter replaces as a whole."""
    from peft.utils import ModulesToSaveWrapper

    return {
        f"{name}.{local}": parameter
        for name, module in peft.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
        for local, parameter in module.modules_to_save[module.active_adapters[0]].named_parameters()
    }


def adam_moments(
    model: VisionLanguageModel, folder: Path
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], float, float, float]:
    """LoRA tensor name -> Adam's first and second moments, [numel] float32 on the tensor's device; beta1, beta2, eps.

    From the optimizer.pt that the Hugging Face Trainer left beside the adapter: its parameters are numbered in the
    order of the model's own. Raises UserError when they are not those of the adapter.
    """
    path = folder / "optimizer.pt"
    with reading(f"{path} cannot be read as an optimizer's state"):
        optimizer = torch.load(path, map_location=model.device, weights_only=True)
        numbers = optimizer["param_groups"][0]["params"]  # the LoRA tensors; a projector is in a group of its own
        states = [optimizer["state"][number] for number in numbers]
        (beta1, beta2), eps = optimizer["param_groups"][0]["betas"], optimizer["param_groups"][0]["eps"]
    named = {name.replace(".default", ""): p for name, p in model.peft.named_parameters() if "lora_" in name}
    shapes = [tuple(parameter.shape) for parameter in named.values()]
    if [tuple(state["exp_avg"].shape) for state in states] != shapes:
        raise UserError(
            f"{path} is not of this adapter: {len(states)} parameters, expected {len(shapes)} of its shapes"
        )
    moments = {
        name: (state["exp_avg"].flatten().float().to(p.device), state["exp_avg_sq"].flatten().float().to(p.device))
        for (name, p), state in zip(named.items(), states, strict=True)
    }
    return moments, beta1, beta2, eps
