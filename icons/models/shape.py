"""A loaded model's shape, as the estimate of its memory takes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from icons.gradients.layers import ALL, last_layers
from icons.gradients.lora import LoraPair
from icons.gradients.memory import DecoderShape
from icons.models.vlm import VisionLanguageModel


def decoder_shape(model: VisionLanguageModel, pairs: Sequence[LoraPair], layers: str = ALL) -> DecoderShape:
    """From the language model's config; the rank is the largest of the adapter's."""
    return shape_of(model.base, max(pair.a.weight.shape[0] for pair in pairs), model.base.dtype, layers)


def shape_of(base: Any, rank: int, dtype: torch.dtype, layers: str = ALL) -> DecoderShape:
    """The shape of a Hugging Face model's decoder, with LoRA of `rank`, computed in `dtype`.

    Where only the last N layers count, its layers are N + 1: those before them keep nothing, and one of them at a time
    takes memory while it runs.
    """
    config = base.config.get_text_config()
    heads, total = config.num_attention_heads, config.num_hidden_layers
    return DecoderShape(
        layers=min(total, (last_layers(layers) or total) + 1),
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        rank=rank,
        number_bytes=dtype.itemsize,
    )


def shapes_by_device(
    model: VisionLanguageModel, pairs: Sequence[LoraPair], kept: str = ALL
) -> dict[torch.device, DecoderShape]:
    """What of the decoder lies on each device: all of it, or with `model.device_map` some of its layers.

    `kept` are the layers that count, see `decoder_shape`; a device with none of them takes what one layer does.
    """
    shape = decoder_shape(model, pairs, kept)
    layers = getattr(model.base.get_decoder(), "layers", None)
    if layers is None:
        return {pair.device: shape for pair in pairs}
    places = [next(layer.parameters()).device for layer in layers]
    counts = Counter(places[-(last_layers(kept) or len(places)) :])
    if len(set(places)) == 1:
        return {places[0]: shape}
    return {device: replace(shape, layers=max(1, counts[device])) for device in dict.fromkeys(places)}
