"""A Llama of any shape with random weights and LoRA on all its layers, made in memory, without files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from icons.config import LoraConfig
from icons.data.formats import LlavaFormat
from icons.gradients.per_sample import IGNORE, ForwardPass
from icons.models.adapters import attach_fresh_lora
from icons.models.vlm import VisionLanguageModel
from tests.reference.gradients import randomise_lora

SHAPE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip


def small_llama(dtype: torch.dtype = torch.float32, rank: int = 4, **shape: Any) -> VisionLanguageModel:
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE | shape)).to(dtype)
    inputs = LlavaFormat(None, None, None, 0, pad_token_id=0, max_length=2048)
    model = attach_fresh_lora(
        VisionLanguageModel(base, base, inputs, torch.device("cpu")), LoraConfig(r=rank, alpha=2 * rank, dropout=0)
    )
    randomise_lora(model.peft)
    model.peft.requires_grad_(False).eval()
    return model


def forward_pass(model: VisionLanguageModel, batch: int, tokens: int, seed: int = 0) -> ForwardPass:
    """A batch of random ids; every sample is to predict the last third of its own."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(0, SHAPE["vocab_size"], (batch, tokens), generator=generator)
    labels_BT = ids_BT.roll(-1, 1)
    labels_BT[:, : 2 * tokens // 3] = IGNORE

    def hidden() -> Tensor:
        states: Tensor = model.base.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        return states

    return ForwardPass(model.lora_pairs(), hidden, model.head, labels_BT)
