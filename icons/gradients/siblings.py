"""Adapted layers that read the same input, as queries, keys and values do: one thin product serves them all.

Their A's, one above the other, read the input once. On the way back the input's gradient is written once and every
layer adds its part to it; apart, each would write one of its own, and those would be added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

QUERIES_KEYS_VALUES = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")
_ATTENTION = (
    "llama.modeling_llama.LlamaAttention",
    "mistral.modeling_mistral.MistralAttention",
    "qwen2.modeling_qwen2.Qwen2Attention",
    "qwen2_vl.modeling_qwen2_vl.Qwen2VLAttention",
    "qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLAttention",
    "qwen3.modeling_qwen3.Qwen3Attention",
)
_MLP = (
    "llama.modeling_llama.LlamaMLP",
    "mistral.modeling_mistral.MistralMLP",
    "qwen2.modeling_qwen2.Qwen2MLP",
    "qwen2_vl.modeling_qwen2_vl.Qwen2MLP",
    "qwen2_5_vl.modeling_qwen2_5_vl.Qwen2MLP",
    "qwen3.modeling_qwen3.Qwen3MLP",
)
SHARED_INPUTS = {
    f"transformers.models.{name}": children
    for names, children in ((_ATTENTION, QUERIES_KEYS_VALUES), (_MLP, GATE_UP))
    for name in names
}
"""Classes known to give these children one and the same tensor whenever they run."""


@dataclass(frozen=True, eq=False)
class Siblings:
    """LoRA matrices A [r, in] of the layers that read one input and are computed in `dtype`; often of one alone."""

    dtype: torch.dtype
    a: list[nn.Linear]

    @cached_property
    def stacked(self) -> Tensor:
        """All A's in `dtype`, one above the other [sum of r, in]; made once, from the weights as they are then."""
        weights = [each.weight.detach().to(self.dtype) for each in self.a]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def rows(self, a: nn.Linear) -> slice:
        """Where one of them lies in `stacked`."""
        at = next(at for at, each in enumerate(self.a) if each is a)
        first = sum(each.weight.shape[0] for each in self.a[:at])
        return slice(first, first + a.weight.shape[0])


def shared_input(model: nn.Module, name: str) -> str:
    """The path of the module from which the one at `name` gets the same input as others; its own where none is known.

    Raises AttributeError when there is no such module.
    """
    parent, _, child = name.rpartition(".")
    kind = type(model.get_submodule(parent))
    return parent if child in SHARED_INPUTS.get(f"{kind.__module__}.{kind.__qualname__}", ()) else name
