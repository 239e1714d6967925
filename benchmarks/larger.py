"""How many tokens go through a model at once on cards of a size: plain, in 8 and in 4 bits, on one card and on several.

    python benchmarks/larger.py [--card 24] [--cards 1,2,4] [--sizes 7B,13B]

Counted, not measured on a GPU, by what `model.device_map: auto` shares the layers with: weights and what a backward
pass keeps of a token, LoRA of rank 128 on all layers, 97% of a card free. Models are LLaVA's in shape, with a Llama of
the size's published dimensions, in bfloat16. "-": the weights do not fit; a sample with an image of LLaVA-1.5 has some
700 tokens, and one that is longer than the number does not fit either.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer
from torch import nn

from icons.config import ModelConfig
from icons.errors import UserError
from icons.gradients.memory import token_bytes, tokens_that_fit
from icons.models.quantization import weight_bytes
from icons.models.shape import shape_of
from icons.models.sharding import spread

SIZES = {
    "7B": (32, 4096, 11008, 32, 32),
    "13B": (40, 5120, 13824, 40, 40),
    "34B": (60, 7168, 20480, 56, 8),
    "70B": (80, 8192, 28672, 64, 8),
}
"""Layers, hidden, intermediate, heads, key heads."""
BITS: tuple[Any, ...] = (None, "8bit", "4bit")
RANK, FREE = 128, 0.97


def model(size: str) -> nn.Module:
    """Without weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    layers, hidden, intermediate, heads, key_heads = SIZES[size]
    text = LlamaConfig(
        vocab_size=32064, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=key_heads, tie_word_embeddings=False,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336
    )
    with torch.device("meta"):
        return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision))


def tokens(config: ModelConfig, bare: Any, card: float, cards: int) -> int | None:
    """Padded tokens at once, None where the model does not fit."""
    free = [FREE * card] * cards
    try:
        places = spread(config, bare, free)
    except UserError:
        return None
    layers, shape = bare.get_decoder().layers, shape_of(bare, RANK, torch.bfloat16)
    each, token = weight_bytes(config, bare, layers[0]), token_bytes(shape) // shape.layers
    beside = weight_bytes(config, bare) - each * len(layers)
    owners = [place.index for name, place in places.items() if ".language_model.layers." in name]
    counts = []
    for number in set(owners):
        count = owners.count(number)
        left = free[number or 0] - count * each - (0 if number else beside)
        counts.append(tokens_that_fit(left, count * token))
    return min(counts)


def main(
    card: Annotated[float, typer.Option(help="GB of a card")] = 24,
    cards: Annotated[str, typer.Option(help="separated by commas")] = "1,2,4,8",
    sizes: Annotated[str, typer.Option(help="separated by commas")] = ",".join(SIZES),
) -> None:
    """Count how many tokens go through models at once on one card and on several."""
    counts = [int(number) for number in cards.split(",")]
    typer.echo(f"{card:g} GB cards; counted, not measured on a GPU\n")
    typer.echo(f"{'model':<8}{'weights':<10}{'GB':>7}" + "".join(f"{f'{number} x':>9}" for number in counts))
    for size in sizes.split(","):
        bare = model(size)
        for bits in BITS:
            config = ModelConfig(base=size, device_map="auto", quantization=bits)
            cells = [tokens(config, bare, card * 1e9, number) for number in counts]
            line = "".join(f"{'-' if cell is None else format(cell, ','):>9}" for cell in cells)
            typer.echo(f"{size:<8}{bits or 'bfloat16':<10}{weight_bytes(config, bare) / 1e9:>7.1f}{line}")


if __name__ == "__main__":
    typer.run(main)
