"""A loaded model's shape, as the estimate of its memory takes it."""

from __future__ import annotations

from collections.abc import Sequence

from icons.gradients.layers import ALL, last_layers
from icons.gradients.lora import LoraPair
from icons.gradients.memory import DecoderShape
from icons.models.vlm import VisionLanguageModel


def decoder_shape(model: VisionLanguageModel, pairs: Sequence[LoraPair], layers: str = ALL) -> DecoderShape:
    """From the language model's config; the rank is the largest of the adapter's.

    Where only the last N layers count, its layers are N + 1: those before them keep nothing, and one of them at a time
    takes memory while it runs.
    """
    config = model.base.config.get_text_config()
    heads, total = config.num_attention_heads, config.num_hidden_layers
    return DecoderShape(
        layers=min(total, (last_layers(layers) or total) + 1),
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        key_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        rank=max(pair.a.weight.shape[0] for pair in pairs),
        number_bytes=model.base.dtype.itemsize,
    )
