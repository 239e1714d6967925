"""Element-wise work of decoder layers in one operation each, on a GPU, where the arithmetic is known to be the same.

A layer of another class, or one with another activation, stays as it is. Numbers differ by the rounding of the steps
that are no longer rounded in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama

NORMS = frozenset(
    f"transformers.models.{name}"
    for name in (
        "llama.modeling_llama.LlamaRMSNorm",
        "mistral.modeling_mistral.MistralRMSNorm",
        "qwen2.modeling_qwen2.Qwen2RMSNorm",
        "qwen2_vl.modeling_qwen2_vl.Qwen2VLRMSNorm",
        "qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLRMSNorm",
        "qwen3.modeling_qwen3.Qwen3RMSNorm",
    )
)
"""Classes whose forward pass is weight * (x / sqrt(mean(x^2) + eps)), the mean in float32."""

Swap = tuple[nn.Module, Callable[..., Tensor]]


def fused_parts(decoder: nn.Module, *, kernels: bool) -> list[Swap]:
    """Modules of the decoder with the forward pass that takes their own one's place; `kernels`: Triton can be used."""
    swaps: list[Swap] = []
    for module in decoder.modules():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        if kind in NORMS:
            swaps.append((module, partial(_norm, module)))
        elif kernels and type(module) is modeling_llama.LlamaMLP and _is_silu(module.act_fn):
            swaps.append((module, partial(_mlp, module)))
    return swaps


@contextmanager
def in_place_of_their_own(swaps: list[Swap], *, kernels: bool) -> Iterator[None]:
    """While open, the modules compute so; with `kernels` Llama's attention also turns queries and keys by a kernel."""
    plain: Any = modeling_llama.apply_rotary_pos_emb
    try:
        for module, forward in swaps:
            module.forward = forward
        if kernels:
            modeling_llama.apply_rotary_pos_emb = _rotary
        yield
    finally:
        modeling_llama.apply_rotary_pos_emb = plain
        for module, _ in swaps:
            del module.forward


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    return F.rms_norm(hidden_states, hidden_states.shape[-1:], module.weight, module.variance_epsilon)


def _mlp(module: Any, x: Tensor) -> Tensor:
    from icons.gradients.layer_kernels import swiglu

    out: Tensor = module.down_proj(swiglu(module.gate_proj(x), module.up_proj(x)))
    return out


def _rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    from icons.gradients.layer_kernels import rotary

    assert unsqueeze_dim == 1
    return rotary(q, cos, sin), rotary(k, cos, sin)


def _is_silu(act: Any) -> bool:
    return type(act) in (nn.SiLU, SiLUActivation)
