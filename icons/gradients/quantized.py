"""Linear layers whose frozen weights bitsandbytes keeps in 8 or 4 bits, as plain layers of the weights they stand for.

The inputs stay as they are. (bitsandbytes' own product of 8 bits rounds them too, and its LLM.int8() looks for outliers
in the whole batch: a sample's gradient would depend on its neighbours.)
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_quantized(layer: nn.Module) -> bool:
    """Whether it is such a layer; whoever has one has imported bitsandbytes."""
    bnb: Any = sys.modules.get("bitsandbytes")
    if bnb is None or not isinstance(layer, nn.Linear):
        return False
    if isinstance(layer, bnb.nn.Linear4bit):
        return getattr(layer.weight, "quant_state", None) is not None
    return isinstance(layer, bnb.nn.Linear8bitLt) and layer.weight.dtype == torch.int8


def dense_weight(layer: Any, dtype: torch.dtype) -> Tensor:
    """What a layer's weight stands for, [out, in] in `dtype`, made anew at every call; a plain layer's is its own."""
    if not is_quantized(layer):
        plain: Tensor = layer.weight.detach()
        return plain
    if layer.weight.dtype != torch.int8:
        from bitsandbytes.functional import dequantize_4bit

        weight_OI: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return weight_OI.to(dtype)
    # A row's largest number stands for 127; bitsandbytes moves the rows' scales from the weight to the layer's state.
    scales_O = layer.state.SCB if getattr(layer.weight, "SCB", None) is None else layer.weight.SCB
    dense_OI: Tensor = layer.weight.data.to(dtype).mul_(scales_O.float().div(127).unsqueeze(1))
    return dense_OI


def product(layer: Any, x: Tensor) -> Tensor:
    """W x + b of a quantised layer; the graph keeps neither x nor the dense weight."""
    out: Tensor = _Product.apply(x, layer)  # type: ignore[no-untyped-call]
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return F.linear(x, dense_weight(layer, x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ dense_weight(ctx.layer, grad.dtype), None
