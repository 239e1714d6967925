"""A loaded model's shape, as the estimate of its memory takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from icons.gradients.lora import LoraPair
from icons.gradients.memory import DecoderShape
from icons.models.vlm import VisionLanguageModel


def decoder_shape(model: VisionLanguageModel, pairs: Sequence[LoraPair]) -> DecoderShape:
    """From the language model's config; the rank is the largest of the adapter's."""
    return shape_of(model.base, max(pair.a.weight.shape[0] for pair in pairs), model.base.dtype)


def shape_of(base: Any, rank: int, dtype: torch.dtype) -> DecoderShape:
    """The shape of a Hugging Face model's decoder, with LoRA of `rank`, computed in `dtype`."""
    config = base.config.get_text_config()
    heads = config.num_attention_heads
    return DecoderShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        rank=rank,
        number_bytes=dtype.itemsize,
    )


def shapes_by_device(model: VisionLanguageModel, pairs: Sequence[LoraPair]) -> dict[torch.device, DecoderShape]:
    """What of the decoder lies on each device: all of it, or with `model.device_map` some of its layers."""
    shape = decoder_shape(model, pairs)
    layers = getattr(model.base.get_decoder(), "layers", None)
    if layers is None:
        return {pair.device: shape for pair in pairs}
    counts = Counter(next(layer.parameters()).device for layer in layers)
    return {device: replace(shape, layers=count) for device, count in counts.items()}
