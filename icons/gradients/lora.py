"""The LoRA layers of a PEFT model: what is computed of them, in which dtype, and which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from icons.gradients.layers import ALL, counted, decoder_layers
from icons.gradients.quantized import dense_weight, is_quantized
from icons.gradients.siblings import Siblings, shared_input


@dataclass(frozen=True)
class LoraPair:
    """One adapted linear layer: A [r, in], B [out, r], scaling s; `name` is its module path in the PEFT model.

    It is computed in the `dtype` of the base layer's weight, or of the model where that is quantised, and together with
    its `siblings`. One that does not count (`icons.gradients.layers`) runs as the others do, and no gradient is made of
    it. What is made once is made from the weights as they are then: other weights want other pairs.
    """

    name: str
    module: nn.Module
    base: nn.Linear
    a: nn.Linear
    b: nn.Linear
    scaling: float
    siblings: Siblings
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

    @property
    def dtype(self) -> torch.dtype:
        return self.siblings.dtype

    @cached_property
    def scaled_b(self) -> Tensor:
        """s B [out, r] in `dtype`; s is multiplied in float32, so that s B is rounded once."""
        return (self.b.weight.detach().float() * self.scaling).to(self.dtype)

    def weight(self) -> Tensor:
        """W [out, in] in `dtype`; of a quantised layer made anew at every call."""
        return dense_weight(self.base, self.dtype)


def lora_pairs(model: nn.Module, layers: str = ALL, apart: Sequence[nn.Module] = ()) -> list[LoraPair]:
    """Every LoRA pair of the one active adapter, in module order; those of `layers` (`icons.gradients.layers`) count.

    Modules in `apart` are given an input of their own, whatever their class does (`icons.gradients.siblings`).

    Raises ValueError for what the per-sample formulas do not cover: no LoRA at all, several active adapters, DoRA and
    other variants, LoRA biases, anything but linear layers (plain ones, or in 8 or 4 bits by bitsandbytes); and for
    `layers` that the model does not have.
    """
    from peft.tuners.lora import Linear, LoraLayer

    pairs, inputs = [], dict[tuple[str, torch.dtype, torch.device], Siblings]()
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
        source = name if any(module is other for other in apart) else shared_input(model, name)
        siblings = inputs.setdefault((source, dtype, a.weight.device), Siblings(dtype, []))
        siblings.a.append(a)
        pairs.append(LoraPair(name, module, base, a, b, float(module.scaling[adapters[0]]), siblings))
    if not pairs:
        raise ValueError("the model has no LoRA layers")
    total = None if layers == ALL else decoder_layers(model.config)
    counting = counted([pair.name for pair in pairs], layers, total)
    return [pair if pair.name in counting else replace(pair, counts=False) for pair in pairs]


def _dtype_beside(model: nn.Module) -> torch.dtype:
    """Of the parameters that are neither quantised nor LoRA: embeddings, norms."""
    named = model.named_parameters()
    return next(p.dtype for name, p in named if p.is_floating_point() and p.dim() == 1 and "lora_" not in name)
