"""The parts of a vision-language model, found from the model itself: language model, projector."""

from __future__ import annotations

from typing import Any

from torch import nn

PROJECTORS = ("multi_modal_projector", "connector", "visual.merger")
"""How Hugging Face's models name what turns image features into token embeddings."""


def language_model_name(base: Any) -> str:
    """Module path of the decoder in `base`, for example `model.language_model`."""
    decoder = base.get_decoder()
    names: dict[int, str] = {id(module): name for name, module in base.named_modules()}
    return names[id(decoder)]


def is_language(name: str, language_model: str) -> bool:
    """Whether the module path `name`, in the model or in a PEFT model of it, lies in the language model."""
    return f".{language_model}." in f".{name}."


def language_linears(base: Any) -> dict[str, nn.Linear]:
    """Module path -> layer of every linear layer of the language model; the output head is none of it."""
    inside = language_model_name(base)
    return {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and is_language(name, inside)
    }


def projector_name(base: Any) -> str | None:
    """Module path of the projector, None when the model has none that is known."""
    names = [name for name, _ in base.named_modules()]
    return next((name for name in names for suffix in PROJECTORS if f".{name}".endswith(f".{suffix}")), None)
