"""The device that a process computes on: chosen, taken before anything else, and told to the person."""

from __future__ import annotations

from functools import cache

import torch

from icons.config import ModelConfig
from icons.errors import UserError
from icons.models.quantization import bits_of
from icons.models.sharding import devices_of
from icons.models.vlm import VisionLanguageModel
from icons.progress import tell


def pick_device(name: str) -> torch.device:
    """`auto` is the process's own GPU, or the CPU without one, which is said; with its number in either case.

    Raises UserError when a GPU is asked for and there is none.
    """
    gpu = torch.cuda.is_available()
    if name.startswith("cuda") and not gpu:
        raise UserError(f"model.device: {name} asked for, but torch sees no GPU; use auto or cpu")
    if name == "auto" and not gpu:
        _say_no_gpu()
    if not gpu or name not in ("auto", "cuda"):
        return torch.device("cpu" if name == "auto" else name)
    return torch.device("cuda", torch.cuda.current_device())


@cache
def _say_no_gpu() -> None:
    tell(
        "NO GPU: torch sees none, so all is computed on the CPU, which is for small models. If there should be one, "
        "look at the driver and at torch's build (torch.version.cuda); model.device: cpu says that it is meant."
    )


def pick_devices(config: ModelConfig) -> list[torch.device]:
    """Where a model will lie: one device, or with `model.device_map: auto` every visible GPU.

    Raises UserError when a GPU is asked for and there is none.
    """
    if config.device_map is None:
        return [pick_device(config.device)]
    if not torch.cuda.is_available():
        raise UserError(
            "model.device_map: auto spreads a model over GPUs, and torch sees none; leave it out, or look at the "
            "driver and at torch's build (torch.version.cuda)"
        )
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


def take_device(name: str) -> torch.device:
    """Picks the device and makes it the process's own: what libraries put on "the GPU" lands on no other.

    Sums of bfloat16 products stay in float32 from the first term to the last.
    """
    device = pick_device(name)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def computing(model: VisionLanguageModel, *more: str) -> str:
    """One line: device, dtype, LoRA parameters, and more."""
    name = ", ".join(_named(device) for device in devices_of(model.base))
    lora = sum(parameter.numel() for path, parameter in model.peft.named_parameters() if "lora_" in path)
    dtype = str(model.base.dtype).removeprefix("torch.")
    weights = [bits_of(model.base)] if bits_of(model.base) else []
    return ", ".join([f"on {name}", dtype, *weights, f"{lora:,} LoRA parameters" if lora else "no adapter", *more])


def _named(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
