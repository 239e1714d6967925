"""`model.quantization`: the language model's linear layers in 8 or 4 bits, made by bitsandbytes while they are read.

4 bits are QLoRA's (arXiv 2305.14314): NormalFloat with double quantisation. 8 bits are the weights of LLM.int8() (arXiv
2208.07339), each row by its largest number. Vision tower, projector, embeddings and output head stay as they are, and
so do all inputs (see `icons.gradients.quantized`).
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from icons.config import ModelConfig
from icons.errors import UserError
from icons.gradients.quantized import is_quantized, product
from icons.models.parts import is_language, language_linears, language_model_name

WEIGHT_BYTES = {"8bit": 1.0, "4bit": 0.516}
"""Of a quantised number with its scales: in 4 bits one of 8 bits for 64 of them, and one of 32 for 256 of those."""


def require_bitsandbytes(config: ModelConfig) -> None:
    """Raises UserError when the config asks for what needs it and it is not installed."""
    if config.quantization is not None and find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.quantization: {config.quantization} needs bitsandbytes, which is not installed; "
            "pip install 'icons[quant]'"
        )


def reading_settings(config: ModelConfig, bare: nn.Module) -> dict[str, Any]:
    """Arguments of `from_pretrained`; `bare` is the model on the meta device."""
    if config.quantization is None:
        return {}
    require_bitsandbytes(config)
    from transformers import BitsAndBytesConfig

    inside = language_model_name(bare)
    outside = [name for name, m in bare.named_modules() if isinstance(m, nn.Linear) and not is_language(name, inside)]
    settings: dict[str, Any] = {"load_in_8bit": True, "llm_int8_threshold": 0.0}
    if config.quantization == "4bit":
        settings = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": getattr(torch, config.dtype),
        }
    return {"quantization_config": BitsAndBytesConfig(**settings, llm_int8_skip_modules=outside)}


def use_weights_alone(model: Any) -> None:
    """Every quantised layer multiplies by the weights that it stands for, in training, gradients and answers alike."""
    layers = [module for module in model.modules() if is_quantized(module)]
    if not layers:
        raise UserError(f"model.quantization: {type(model).__name__} has no linear layer that bitsandbytes takes")
    for layer in layers:
        layer.forward = partial(product, layer)


def bits_of(model: Any) -> str:
    """`8-bit weights`, `4-bit weights`, or nothing."""
    for bits in (8, 4):
        if getattr(model, f"is_loaded_in_{bits}bit", False):
            return f"{bits}-bit weights"
    return ""


def weight_bytes(config: ModelConfig, bare: nn.Module, part: nn.Module | None = None) -> int:
    """What the weights of a model on the meta device, or of a part of it, will take; from their shapes alone."""
    number: int = getattr(torch, config.dtype).itemsize
    weights = dict.fromkeys((part or bare).parameters())  # a weight that two layers share counts once
    if config.quantization is None:
        return number * sum(weight.numel() for weight in weights)
    small: set[Tensor] = {layer.weight for layer in language_linears(bare).values()}
    size = WEIGHT_BYTES[config.quantization]
    return round(sum(weight.numel() * (size if weight in small else number) for weight in weights))
