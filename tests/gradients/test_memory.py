"""How many tokens fit: the formula against the tensors that autograd saves, and the budget by card."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from icons.gradients.adapted import per_sample_gradients
from icons.gradients.memory import GIB, DecoderShape, fewer_tokens, token_bytes, tokens_that_fit
from icons.models.shape import decoder_shape
from icons.models.vlm import VisionLanguageModel
from tests.gradients.small_llama import forward_pass, small_llama

LLAVA_7B = DecoderShape(
    layers=32, hidden=4096, intermediate=11008, heads=32, key_heads=32, head_dim=128, rank=128, number_bytes=2
)


def saved_bytes(model: VisionLanguageModel, tokens: int, layers: str = "all") -> int:
    """Distinct memory that a forward pass of one sample keeps for its backward pass, the model's own left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.peft.parameters(), *model.peft.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # what is kept is alive, so no address comes twice

    batch = forward_pass(model, 1, tokens)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    pairs = model.lora_pairs(layers)
    with torch.enable_grad(), per_sample_gradients(pairs, lambda name, grads: None), hooks:
        graph = batch.hidden()
    assert graph.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("key_heads", [8, 2])
def test_the_formula_is_what_autograd_saves(dtype: torch.dtype, key_heads: int) -> None:
    """LLaVA-1.5-7B's proportions, an eighth as wide; a layer's share is the difference of two depths."""
    wide = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8, "num_key_value_heads": key_heads}
    found = {}
    for layers in (1, 3):
        model = small_llama(dtype, 16, num_hidden_layers=layers, **wide)
        found[layers] = saved_bytes(model, 192) - saved_bytes(model, 64)
        shape = decoder_shape(model, model.lora_pairs())
    measured, formula = (found[3] - found[1]) / 2 / 128, token_bytes(shape) / shape.layers
    assert 0.99 < formula / measured < 1.02


def test_layers_before_those_that_count_keep_nothing() -> None:
    deep, shallow = (small_llama(torch.bfloat16, 16, num_hidden_layers=layers) for layers in (4, 2))
    assert saved_bytes(deep, 192, "last-2") == saved_bytes(shallow, 192, "all")
    shapes = {layers: decoder_shape(deep, deep.lora_pairs(layers), layers) for layers in ("last-1", "last-3", "all")}
    assert {layers: shape.layers for layers, shape in shapes.items()} == {"last-1": 2, "last-3": 4, "all": 4}


def test_llava_7b_keeps_what_was_counted_on_it() -> None:
    """5,253 KiB were counted on the whole model, whose last layer runs at the labels alone; 5,314 at the peak."""
    assert 5_314 <= token_bytes(LLAVA_7B) / 1024 < 5_400


@pytest.mark.parametrize(
    ("card", "mebibytes", "tokens"),
    [(24, 24_564, 1_208), (40, 40_960, 4_021), (80, 81_559, 10_986), (141, 143_771, 16_384)],
)
def test_the_budget_of_llava_7b_by_card(card: int, mebibytes: int, tokens: int) -> None:
    """Less half a GiB for CUDA itself, the model, and its adapter in float32 and as bfloat16 copies."""
    free = mebibytes * 2**20 - 0.5 * GIB - 2 * 7_063_000_000 - 6 * 319_815_680
    assert tokens_that_fit(free, token_bytes(LLAVA_7B)) == tokens
    assert tokens * token_bytes(LLAVA_7B) + 1.5 * GIB <= 0.9 * free


def test_a_device_that_is_full_still_takes_one_sample_at_a_time() -> None:
    assert tokens_that_fit(0.5 * GIB, token_bytes(LLAVA_7B)) == 1
    assert fewer_tokens(16_384, 700) == 12_288
    assert fewer_tokens(800, 700) == 700
