"""Which LoRA layers count: told by their names alone, and refused where these do not tell an order."""

from __future__ import annotations

import pytest
import torch

from icons.gradients.layers import counted
from icons.gradients.per_sample import ForwardPass, backpropagate
from tests.gradients.small_llama import small_llama

DECODER = [f"base_model.model.model.language_model.layers.{n}.mlp.experts.{e}.up" for n in range(12) for e in (0, 11)]


def test_the_last_layers_are_those_of_the_highest_numbers() -> None:
    last = {path for path in DECODER if ".layers.10." in path or ".layers.11." in path}
    assert counted(DECODER, "last-2", 12) == last
    assert counted(DECODER, "last-12", 12) == counted(DECODER, "all", None) == set(DECODER)
    assert counted(["h.9.attn", "h.11.attn"], "last-2", 12) == {"h.11.attn"}


@pytest.mark.parametrize(
    ("paths", "total", "words"),
    [
        ([*DECODER, "base_model.model.model.project_in"], 12, "model.project_in is in no numbered layer"),
        ([*DECODER, "base_model.model.encoder.layers.0.fc1"], 12, "they lie in base_model.model.encoder.layers and in"),
        (DECODER, 11, "does not tell how many layers base_model.model.model.language_model.layers has"),
        (DECODER, None, "does not tell how many layers"),
        (DECODER[:4], 12, "none of the last 2 of 12 decoder layers has a LoRA"),
    ],
)
def test_an_order_that_cannot_be_told_is_refused(paths: list[str], total: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        counted(paths, "last-2", total)


def test_layers_that_run_in_another_order_are_refused() -> None:
    model = small_llama()
    first, second = (layer.self_attn.q_proj for layer in model.base.model.layers)
    x = torch.randn(1, 4, 64)
    forward = ForwardPass(model.lora_pairs("last-1"), lambda: first(second(x)), model.head, torch.ones(1, 4, dtype=int))
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj does not count and yet runs behind"):
        backpropagate(forward, lambda name, grads: None)
