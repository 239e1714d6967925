"""Adapted layers computed so that one backward pass over a batch hands out each sample's own LoRA gradient.

For a pair y = W x + s B A x the gradient of sample i is
    dB_i = s · Σ_t d_it h_itᵀ    with h = A x   and d the gradient of y
    dA_i = Σ_t u_it x_itᵀ        with u = s · d B
so a batch gives them all, layer by layer, and nothing the size of batch x parameters is ever kept: a layer's gradients
go to the sink inside its backward and are dropped. Layers that read one input are one node of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from icons.gradients.lora import LoraPair

Sink = Callable[[str, Tensor], None]
"""Takes a LoRA tensor's canonical name and the gradients [B, numel] of it, one row a sample."""


@contextmanager
def per_sample_gradients(pairs: list[LoraPair], sink: Sink) -> Iterator[None]:
    """While open, each backward pass calls `sink` once per LoRA tensor that counts, the last input's layers first.

    The batch is the first axis of every adapted layer's input [B, T, in]. Dropout is not applied. No parameter's
    `.grad` is touched; freeze them all, so that the graph holds nothing else.
    """
    anchors = {device: torch.zeros((), device=device, requires_grad=True) for device in {p.device for p in pairs}}
    groups: dict[int, list[LoraPair]] = {}
    for pair in pairs:
        groups.setdefault(id(pair.siblings), []).append(pair)
    opened: list[_Layers] = []
    try:
        for group in groups.values():
            opened.append(layers := _Layers(group, anchors[group[0].device], sink))
            for index, pair in enumerate(group):
                pair.module.forward = layers.forward_of(index)
        yield
    finally:
        for layers in opened:
            layers.forget()
            for pair in layers.pairs:
                del pair.module.forward


class _Layers:
    """The layers of one input: the first that is called computes them all, and the others find theirs ready."""

    def __init__(self, pairs: list[LoraPair], anchor: Tensor, sink: Sink) -> None:
        self.pairs, self.anchor, self.sink = pairs, anchor, sink
        self.stacked = pairs[0].siblings.stacked
        self.rows = [pair.siblings.rows(pair.a) for pair in pairs]
        self.forget()

    def forget(self) -> None:
        """Outputs that nobody has asked for hold their graph, and the graph holds them."""
        self.made_of: tuple[Tensor, int, bool] | None = None
        self.ready: dict[int, Tensor] = {}

    def forward_of(self, index: int) -> Callable[..., Tensor]:
        def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
            if index not in self.ready or not self.fits(x):
                self.ready = dict(enumerate(self.outputs(x, self.pairs[index])))
                self.made_of = x, x._version, torch.is_grad_enabled()
            y = self.ready.pop(index)
            if not self.ready:
                self.made_of = None
            return y

        return forward

    def fits(self, x: Tensor) -> bool:
        """Whether what is ready was made of this input, as it is now, in the same mode."""
        if self.made_of is None:
            return False
        input_, version, grad = self.made_of
        return input_ is x and version == x._version and grad == torch.is_grad_enabled()

    def outputs(self, x: Tensor, asked: LoraPair) -> tuple[Tensor, ...]:
        if x.dim() != 3:
            raise ValueError(f"{asked.name}: expected an input [batch, tokens, features], got {tuple(x.shape)}")
        if not asked.counts and torch.is_grad_enabled() and x.requires_grad:
            raise ValueError(f"{asked.name} does not count and yet runs behind layers that do; let all layers count")
        if not asked.counts or not torch.is_grad_enabled():
            return self.products(x)[1]
        apply: Callable[..., tuple[Tensor, ...]] = _Adapted.apply
        return apply(x, self.anchor, self)

    def products(self, x_BTI: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A x of all, [B, T, sum of r], and each layer's y [B, T, out].

        The thin products first: the large one adds to what they gave while it computes. The other way round the large
        result would be rounded twice, and read and written once more.
        """
        h_BTR = F.linear(x_BTI, self.stacked)
        outputs = []
        for pair, rows in zip(self.pairs, self.rows, strict=True):
            h_Nr, b_rO, bias = _flat(h_BTR)[:, rows], pair.scaled_b.t(), pair.base.bias
            y_BTO = x_BTI.new_empty(*x_BTI.shape[:2], b_rO.shape[1])
            y_NO = _flat(y_BTO)
            if bias is None:
                torch.mm(h_Nr, b_rO, out=y_NO)
            else:
                torch.addmm(bias, h_Nr, b_rO, out=y_NO)
            y_NO.addmm_(_flat(x_BTI), pair.weight().t())
            outputs.append(y_BTO)
        return h_BTR, tuple(outputs)


class _Adapted(torch.autograd.Function):
    """Each layer's y = W x + b_ A x with b_ = s B folded; its backward gives each sample's dA and dB to the sink."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BTI: Tensor,
        anchor: Tensor,  # a leaf that asks for a gradient, so that the first layer is part of the graph
        layers: _Layers,
    ) -> tuple[Tensor, ...]:
        h_BTR, outputs = layers.products(x_BTI)
        ctx.save_for_backward(x_BTI, h_BTR)
        ctx.set_materialize_grads(False)
        ctx.layers = layers
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x_BTI, h_BTR = ctx.saved_tensors
        layers: _Layers = ctx.layers
        unused = any(d_BTO is None for d_BTO in grads)  # nothing that counts was made of such a layer's output
        u_BTR = torch.zeros_like(h_BTR) if unused else torch.empty_like(h_BTR)
        for pair, rows, d_BTO in zip(layers.pairs, layers.rows, grads, strict=True):
            if d_BTO is None:
                continue
            torch.mm(_flat(d_BTO), pair.scaled_b, out=_flat(u_BTR)[:, rows])
            (name_a, _), (name_b, b) = pair.tensors
            grads_BOr = d_BTO.new_empty(d_BTO.shape[0], *b.shape)
            d_BOT, u_BrT = d_BTO.transpose(1, 2), u_BTR[..., rows].transpose(1, 2)
            grads_BOr.baddbmm_(d_BOT, h_BTR[..., rows], beta=0, alpha=pair.scaling)
            layers.sink(name_b, grads_BOr.flatten(1))
            layers.sink(name_a, torch.bmm(u_BrT, x_BTI).flatten(1))
        dx_BTI = None
        if ctx.needs_input_grad[0]:
            dx_BTI = u_BTR @ layers.stacked
            for pair, d_BTO in zip(layers.pairs, grads, strict=True):
                if d_BTO is not None:
                    _flat(dx_BTI).addmm_(_flat(d_BTO), pair.weight())
        return dx_BTI, None, None


def _flat(tensor: Tensor) -> Tensor:
    """[B, T, n] as [B T, n]; what is written to is contiguous and so a view."""
    return tensor.reshape(-1, tensor.shape[-1])
