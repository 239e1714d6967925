"""`model.device_map: auto`: one model over all visible GPUs, its layers one after the other.

Which module lies where is Accelerate's choice, as with Hugging Face's `device_map="auto"`. What moves the inputs from GPU
to GPU are plain torch hooks: Accelerate's own replace a module's `forward`, and so do the gradient engine's layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from icons.config import ModelConfig
from icons.errors import UserError
from icons.models.parts import is_language, language_model_name
from icons.models.quantization import weight_bytes

GB = 1e9
DeviceMap = dict[str, torch.device]
"""Module path -> where it lies; together they cover the model."""


def spread(config: ModelConfig, bare: nn.Module, free: Mapping[int, int] | None = None) -> DeviceMap:
    """Where each part of the model goes; `bare` is the model on the meta device.

    `free` has the bytes that may be used of each GPU, by its number; None: what is free of all visible ones. Raises
    UserError when the model does not fit.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    memory = {key: value for key, value in (free or get_max_memory()).items() if isinstance(key, int)}
    whole = [str(name) for name in getattr(bare, "_no_split_modules", None) or ()]
    sizes: dict[str, Any] = {
        "no_split_module_classes": whole,
        "dtype": getattr(torch, config.dtype),
        "special_dtypes": _small_numbers(config, bare),
    }
    balanced = get_balanced_memory(bare, dict(memory), **sizes)
    found = infer_auto_device_map(bare, {key: balanced[key] for key in memory}, **sizes)
    if {"cpu", "disk"} & set(found.values()):
        raise UserError(
            f"model.device_map: auto: weights of {weight_bytes(config, bare) / GB:.1f} GB do not fit the "
            f"{len(memory)} visible GPU(s) with {sum(memory.values()) / GB:.1f} GB free, and are not kept on CPU or "
            "disk; use more GPUs, or model.quantization: 4bit"
        )
    return {name: torch.device("cuda", number) for name, number in found.items()}


def _small_numbers(config: ModelConfig, bare: nn.Module) -> dict[str, Any]:
    """Name of a weight that will be quantised -> Accelerate's word for the size of its numbers."""
    if config.quantization is None:
        return {}
    from accelerate.utils import CustomDtype

    size, inside = {"8bit": torch.int8, "4bit": CustomDtype.INT4}[config.quantization], language_model_name(bare)
    return {
        f"{name}.weight": size
        for name, module in bare.named_modules()
        if isinstance(module, nn.Linear) and is_language(name, inside)
    }


def move_inputs(model: nn.Module, places: Mapping[str, torch.device]) -> None:
    """From here on every part of `places` finds its inputs on its own device; Accelerate's hooks are taken off."""
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    for module in model.modules():
        module.__dict__.pop("forward", None)  # which they leave as an attribute; the class has it
    for name, device in places.items():
        model.get_submodule(name).register_forward_pre_hook(partial(_moved, device), with_kwargs=True)


def _moved(device: torch.device, module: nn.Module, args: Any, kwargs: Any) -> Any:
    return _on(device, args), _on(device, kwargs)


def _on(device: torch.device, value: Any) -> Any:
    """Tensors within lists, tuples and mappings; whatever else, such as a cache of keys and values, stays."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if type(value) in (list, tuple):
        return type(value)(_on(device, each) for each in value)
    if type(value) is dict:
        return {key: _on(device, each) for key, each in value.items()}
    return value


def devices_of(model: nn.Module) -> list[torch.device]:
    """Where a model's weights lie, in the order of its modules."""
    return list(dict.fromkeys(weight.device for weight in model.parameters()))


def layers_by_device(layers: Sequence[nn.Module]) -> dict[torch.device, int]:
    """How many decoder layers lie on each device."""
    counts: dict[torch.device, int] = {}
    for layer in layers:
        device = next(layer.parameters()).device
        counts[device] = counts.get(device, 0) + 1
    return counts
