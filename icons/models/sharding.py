"""`model.device_map: auto`: one model over all visible GPUs, its decoder layers one after the other.

All that is not a decoder layer lies on the first GPU. The layers are shared so that the most tokens go through at once:
what a backward pass keeps of them is most of the memory, which Accelerate's own map, made for inference, does not
count. Plain torch hooks move the inputs from GPU to GPU: Accelerate's replace a module's `forward`, and so do the
gradient engine's layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from icons.config import ModelConfig
from icons.errors import UserError
from icons.gradients.memory import split_layers, token_bytes
from icons.models.parts import language_model_name
from icons.models.quantization import weight_bytes
from icons.models.shape import shape_of

GB = 1e9
DeviceMap = dict[str, torch.device]
"""Path of a module, or of a parameter that stands beside modules -> where it lies; together they cover the model."""


def spread(config: ModelConfig, bare: Any, free: Sequence[float] | None = None) -> DeviceMap:
    """Where each part of the model goes; `bare` is the model on the meta device.

    `free` has the bytes that may be used of each GPU; None: what is free of all visible ones. Raises UserError when the
    model does not fit, or has no list of layers.
    """
    if free is None:
        free = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
    layers = getattr(bare.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"model.device_map: auto: the decoder of {type(bare).__name__} has no list of layers to share")
    whole = weight_bytes(config, bare)
    in_layers = sum(weight_bytes(config, bare, layer) for layer in layers)
    shape = shape_of(bare, config.lora.r, getattr(torch, config.dtype))
    room = [bytes_ - (0 if number else whole - in_layers) for number, bytes_ in enumerate(free)]
    counts = split_layers(len(layers), room, in_layers / len(layers), token_bytes(shape) / shape.layers)
    if counts is None:
        raise UserError(
            f"model.device_map: auto: weights of {whole / GB:.1f} GB, and what gradients need beside them, do not fit "
            f"{len(free)} GPU(s) with {sum(free) / GB:.1f} GB free, and nothing is kept on CPU or disk; use more GPUs, "
            "or model.quantization: 4bit"
        )
    first, path = torch.device("cuda", 0), f"{language_model_name(bare)}.layers"
    owners = [number for number, count in enumerate(counts) for _ in range(count)]
    places = dict.fromkeys(_beside(bare, path.split(".")), first)
    return places | {f"{path}.{layer}": torch.device("cuda", owner) for layer, owner in enumerate(owners)}


def _beside(module: nn.Module, path: list[str], prefix: str = "") -> Iterator[str]:
    """All that lies beside the module at `path`, each named by the shortest path that does not hold it."""
    for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield prefix + name
    for name, child in module.named_children():
        if name != path[0]:
            yield prefix + name
        elif len(path) > 1:
            yield from _beside(child, path[1:], f"{prefix}{name}.")


def move_inputs(model: nn.Module, places: Mapping[str, torch.device]) -> None:
    """From here on every part of `places` finds its inputs on its own device; Accelerate's hooks are taken off."""
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    modules = dict(model.named_modules())
    for module in modules.values():
        module.__dict__.pop("forward", None)  # which they leave as an attribute; the class has it
    for name, device in places.items():
        if name in modules:
            modules[name].register_forward_pre_hook(partial(_moved, device), with_kwargs=True)


def _moved(device: torch.device, module: nn.Module, args: Any, kwargs: Any) -> Any:
    return _on(device, args), _on(device, kwargs)


def _on(device: torch.device, value: Any) -> Any:
    """Tensors within lists, tuples and mappings; whatever else, such as a cache of keys and values, stays."""
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(_on(device, each) for each in value)
    if type(value) is dict:
        return {key: _on(device, each) for key, each in value.items()}
    return value


def devices_of(model: nn.Module) -> list[torch.device]:
    """Where a model's weights lie, in the order of its modules."""
    return list(dict.fromkeys(weight.device for weight in model.parameters()))
