"""The LoRA layers of a PEFT model, and the pass that hands out each sample's own gradient of them.

For a pair y = W x + s B A x the gradient of sample i is
    dB_i = s · Σ_t d_it h_itᵀ    with h = A x   and d the gradient of y
    dA_i = Σ_t u_it x_itᵀ        with u = s · d B
so one backward pass over a batch gives them all, layer by layer, and nothing the size of batch x parameters is ever
kept: a layer's gradients go to the sink inside its backward and are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icons.gradients.layers import ALL, counted, decoder_layers
from icons.gradients.quantized import dense_weight, is_quantized

Sink = Callable[[str, Tensor], None]
"""Takes a LoRA tensor's canonical name and the gradients [B, numel] of it, one row a sample."""


@dataclass(frozen=True)
class LoraPair:
    """One adapted linear layer: A [r, in], B [out, r], scaling s; `name` is its module path in the PEFT model.

    `dtype` is what it is computed in: that of the base layer's weight, or of the model where that is quantised.
    One that does not count (`icons.gradients.layers`) runs as the others do, and no gradient is made of it.
    `operands` are made once, from the weights as they are then: other weights want other pairs.
    """

    name: str
    module: nn.Module
    base: nn.Linear
    a: nn.Linear
    b: nn.Linear
    scaling: float
    dtype: torch.dtype
    counts: bool = True

    @property
    def device(self) -> torch.device:
        return self.a.weight.device

    @property
    def tensors(self) -> list[tuple[str, Tensor]]:
        """What gradients are made of: canonical names, as in the PEFT adapter file, with the parameters."""
        if not self.counts:
            return []
        return [(f"{self.name}.lora_A.weight", self.a.weight), (f"{self.name}.lora_B.weight", self.b.weight)]

    @cached_property
    def operands(self) -> tuple[Tensor, Tensor]:
        """A and s B in `dtype`; s is multiplied in float32, so that s B is rounded once."""
        a, b = self.a.weight.detach(), self.b.weight.detach()
        return a.to(self.dtype), (b.float() * self.scaling).to(self.dtype)

    def weight(self) -> Tensor:
        """W [out, in] in `dtype`; of a quantised layer made anew at every call."""
        return dense_weight(self.base, self.dtype)


def lora_pairs(model: nn.Module, layers: str = ALL) -> list[LoraPair]:
    """Every LoRA pair of the one active adapter, in module order; those of `layers` (`icons.gradients.layers`) count.

    Raises ValueError for what the per-sample formulas do not cover: no LoRA at all, several active adapters, DoRA and
    other variants, LoRA biases, anything but linear layers (plain ones, or in 8 or 4 bits by bitsandbytes); and for
    `layers` that the model does not have.
    """
    from peft.tuners.lora import Linear, LoraLayer

    pairs = []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        adapters = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
        base = module.get_base_layer()
        quantized = is_quantized(base)
        if not quantized and not (isinstance(module, Linear) and isinstance(base, nn.Linear)):
            raise ValueError(f"{name}: LoRA on {type(base).__name__}; only nn.Linear is supported")
        if len(adapters) != 1 or module.merged or module.disable_adapters:
            raise ValueError(f"{name}: expected one active, unmerged adapter, found {adapters}")
        if adapters[0] in module.lora_variant or module.lora_B[adapters[0]].bias is not None:
            raise ValueError(f"{name}: DoRA, LoRA biases and other LoRA variants are not supported")
        a, b = module.lora_A[adapters[0]], module.lora_B[adapters[0]]
        dtype = _dtype_beside(model) if quantized else base.weight.dtype
        pairs.append(LoraPair(name, module, base, a, b, float(module.scaling[adapters[0]]), dtype))
    if not pairs:
        raise ValueError("the model has no LoRA layers")
    total = None if layers == ALL else decoder_layers(model.config)
    counting = counted([pair.name for pair in pairs], layers, total)
    return [pair if pair.name in counting else replace(pair, counts=False) for pair in pairs]


def _dtype_beside(model: nn.Module) -> torch.dtype:
    """Of the parameters that are neither quantised nor LoRA: embeddings, norms."""
    named = model.named_parameters()
    return next(p.dtype for name, p in named if p.is_floating_point() and p.dim() == 1 and "lora_" not in name)


@contextmanager
def per_sample_gradients(pairs: list[LoraPair], sink: Sink) -> Iterator[None]:
    """While open, each backward pass calls `sink` once per LoRA tensor that counts, the last layer first.

    The batch is the first axis of every adapted layer's input [B, T, in]. Dropout is not applied. No parameter's
    `.grad` is touched; freeze them all, so that the graph holds nothing else.
    """
    anchors = {device: torch.zeros((), device=device, requires_grad=True) for device in {p.device for p in pairs}}
    try:
        for pair in pairs:
            pair.module.forward = _forward(pair, anchors[pair.device], sink)
        yield
    finally:
        for pair in pairs:
            del pair.module.forward


def _forward(pair: LoraPair, anchor: Tensor, sink: Sink) -> Callable[..., Tensor]:
    bias = pair.base.bias
    a, b = pair.operands
    names = [name for name, _ in pair.tensors]

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        if x.dim() != 3:
            raise ValueError(f"{pair.name}: expected an input [batch, tokens, features], got {tuple(x.shape)}")
        if not pair.counts and torch.is_grad_enabled() and x.requires_grad:
            raise ValueError(f"{pair.name} does not count and yet runs behind layers that do; let all layers count")
        if not pair.counts or not torch.is_grad_enabled():
            return _product(x, pair.weight(), bias, a, b)[1]
        apply: Callable[..., Tensor] = _Adapted.apply
        return apply(x, anchor, pair.weight, bias, a, b, pair.scaling, names, sink)

    return forward


class _Adapted(torch.autograd.Function):
    """y = W x + b_ A x with b_ = s B folded; its backward gives each sample's dA and dB to the sink."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BTI: Tensor,
        anchor: Tensor,  # a leaf that asks for a gradient, so that the first layer is part of the graph
        weight: Callable[[], Tensor],
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scaling: float,
        names: list[str],
        sink: Sink,
    ) -> Tensor:
        h_BTR, y_BTO = _product(x_BTI, weight(), bias_O, a_RI, b_OR)
        ctx.save_for_backward(x_BTI, h_BTR)
        ctx.frozen = weight, a_RI, b_OR, scaling, names, sink
        return y_BTO

    @staticmethod
    def backward(ctx: Any, d_BTO: Tensor) -> tuple[Tensor | None, ...]:
        x_BTI, h_BTR = ctx.saved_tensors
        weight, a_RI, b_OR, scaling, (name_a, name_b), sink = ctx.frozen
        u_BTR = d_BTO @ b_OR
        grads_BOR = d_BTO.new_empty(d_BTO.shape[0], *b_OR.shape)
        sink(name_b, grads_BOR.baddbmm_(d_BTO.transpose(1, 2), h_BTR, beta=0, alpha=scaling).flatten(1))
        sink(name_a, torch.bmm(u_BTR.transpose(1, 2), x_BTI).flatten(1))
        dx_BTI = None
        if ctx.needs_input_grad[0]:
            dx_BTI = u_BTR @ a_RI
            _rows(dx_BTI).addmm_(_rows(d_BTO), weight())
        return dx_BTI, None, None, None, None, None, None, None, None


def _product(
    x_BTI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor
) -> tuple[Tensor, Tensor]:
    """A x [B, T, r] and y [B, T, out].

    The thin product first: the large one adds to it while it computes. The other way round the large result would be
    rounded twice, and read and written once more.
    """
    h_BTR = F.linear(x_BTI, a_RI)
    y_BTO = F.linear(h_BTR, b_OR, bias_O)
    _rows(y_BTO).addmm_(_rows(x_BTI), weight_OI.t())
    return h_BTR, y_BTO


def _rows(tensor: Tensor) -> Tensor:
    """[B, T, n] as [B T, n]; what is written to is contiguous and so a view."""
    return tensor.reshape(-1, tensor.shape[-1])
