"""`icons.projected` on PEFT models of others' making: equal to plain autograd, one sample at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import icons
from tests.reference.gradients import causal_lm_gradients, randomise_lora
from tests.reference.projection import MATRIX

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks for it

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32,
}  # fmt: skip
GPT_NEO: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global"], 2]],
    "intermediate_size": 24, "resid_dropout": 0.3, "max_position_embeddings": 32,
}  # fmt: skip
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=24)),
    # Logits are scaled after the head.
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, intermediate_size=24, logit_scale=0.25)),
    # Positions are learned, and counted from the first column; every layer has a dropout of its own.
    "gpt_neo": lambda: GPTNeoForCausalLM(GPTNeoConfig(**GPT_NEO)),
}


def peft_model(name: str) -> Any:
    torch.manual_seed(0)
    settings = LoraConfig(r=2, lora_alpha=6, lora_dropout=0.2, target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(MODELS[name](), settings)
    randomise_lora(model)
    return model


def padded(side: str) -> dict[str, Tensor]:
    """Three samples of 9, 5 and 7 ids, of which different parts are to be predicted."""
    generator = torch.Generator().manual_seed(1)
    batch = {key: torch.zeros(3, 9, dtype=torch.long) for key in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full((3, 9), -100)
    for sample, (length, prompt) in enumerate([(9, 4), (5, 0), (7, 5)]):
        at = slice(0, length) if side == "right" else slice(9 - length, 9)
        ids = torch.randint(3, 40, (length,), generator=generator)
        batch["input_ids"][sample, at] = ids
        batch["attention_mask"][sample, at] = 1
        batch["labels"][sample, at] = torch.where(torch.arange(length) < prompt, -100, ids)
    return batch


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_projected_gradients_of_plain_autograd(name: str, side: str) -> None:
    model, batch = peft_model(name), padded(side)
    found = icons.projected(model, batch, dim=32, seed=3)
    assert model.training
    assert all(parameter.requires_grad == ("lora_" in key) for key, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    gradients, losses = causal_lm_gradients(model.eval(), batch)
    shapes = {key: tensor.numel() for key, tensor in gradients[0].items()}
    matrices = {key: MATRIX["count_sketch"](32, 3, key, size) for key, size in shapes.items()}
    rows = [sum(matrices[key] @ g.flatten().double().numpy() for key, g in one.items()) for one in gradients]
    assert (found.rows.dtype, found.rows.shape) == (torch.float32, (3, 32))
    scale = float(np.abs(rows).max())
    assert scale > 1e-3
    np.testing.assert_allclose(found.rows.numpy(), np.array(rows), atol=2e-5 * scale)
    norms = [torch.cat([g.flatten() for g in one.values()]).norm().item() for one in gradients]
    np.testing.assert_allclose(found.norms.numpy(), norms, rtol=2e-5)
    np.testing.assert_allclose(found.losses.numpy(), losses, rtol=2e-5)
    assert found.tokens.tolist() == [5, 4, 2]
    np.testing.assert_allclose(found.unit.norm(dim=1).numpy(), 1, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_rows_of_the_last_layer_are_those_of_autograd_restricted_to_it(name: str, checkpointing: bool) -> None:
    model, batch = peft_model(name), padded("right")
    whole = icons.projected(model, batch, dim=32, seed=3)
    if checkpointing:
        model.enable_input_require_grads()
    found = icons.projected(model, batch, dim=32, seed=3, layers="last-1")
    embedded = model.get_input_embeddings()(batch["input_ids"])
    assert embedded.requires_grad == checkpointing
    assert torch.equal(found.losses, whole.losses)
    gradients, _ = causal_lm_gradients(model.eval(), batch)
    last = [{key: g for key, g in one.items() if ".1." in key} for one in gradients]
    assert 2 * len(last[0]) == len(gradients[0])
    rows = [
        sum(MATRIX["count_sketch"](32, 3, key, g.numel()) @ g.flatten().double().numpy() for key, g in one.items())
        for one in last
    ]
    np.testing.assert_allclose(found.rows.numpy(), np.array(rows), atol=2e-5 * float(np.abs(rows).max()))
    norms = [torch.cat([g.flatten() for g in one.values()]).norm().item() for one in last]
    np.testing.assert_allclose(found.norms.numpy(), norms, rtol=2e-5)
    both = icons.projected(model, batch, dim=32, seed=3, layers="last-2")
    assert torch.equal(both.rows, whole.rows)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("last-3", "layers last-3: the model has 2 decoder layers; ask for at most last-2, or all"),
        ("last-01", "'last-01' is neither 'all' nor 'last-N', such as last-8"),
        ("first-1", "'first-1' is neither"),
    ],
)
def test_layers_that_a_model_does_not_have_are_refused(layers: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        icons.projected(peft_model("llama"), padded("right"), dim=32, layers=layers)


def test_another_seed_is_another_projection_of_the_same_gradients() -> None:
    model, batch = peft_model("llama"), padded("right")
    first, second = (icons.projected(model, batch, dim=32, seed=seed, projection="rademacher") for seed in (0, 1))
    assert not torch.equal(first.rows, second.rows)
    assert torch.equal(first.norms, second.norms)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": None}, "labels missing"),
        ({"pixel_values": torch.zeros(3, 9)}, "pixel_values not understood"),
        ({"labels": torch.zeros(3, 8)}, r"labels has shape \(3, 8\)"),
        ({"labels": torch.tensor([[5] * 9, [5] + [-100] * 8, [5] * 9])}, "sample 1 predicts nothing"),
    ],
)
def test_a_batch_that_cannot_be_used_is_named(change: dict[str, Any], words: str) -> None:
    batch = {key: tensor for key, tensor in (padded("right") | change).items() if tensor is not None}
    model = peft_model("llama")
    with pytest.raises(ValueError, match=words):
        icons.projected(model, batch, dim=32)
    assert model.training


def test_a_model_without_lora_is_refused() -> None:
    with pytest.raises(ValueError, match="the model has no LoRA layers"):
        icons.projected(MODELS["llama"](), padded("right"))


def test_a_model_in_float64_is_refused_before_the_pass() -> None:
    model = peft_model("llama").double()
    with pytest.raises(ValueError, match=r"q_proj is in torch.float64; load the model in float32, bfloat16 or float16"):
        icons.projected(model, padded("right"), dim=64)
