"""Gradient types: what is made of a sample's gradient, element by element, before it is projected or compared.

`sgd` is the gradient itself (ICONS); `sign` its signs; `adam` the update that Adam would make of it (LESS, arXiv
2402.04333, section 3.1), with the moments of the warm-up's optimizer, on the training side only. They act on the whole
gradient of a LoRA tensor, never on a projection of it: neither sign nor Adam is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Transform = Callable[[str, Tensor], Tensor]
"""Takes a LoRA tensor's name and the samples' gradients [B, numel]; returns features of the same shape."""


def sgd(name: str, grads_BP: Tensor) -> Tensor:
    return grads_BP


def sign(name: str, grads_BP: Tensor) -> Tensor:
    return torch.sign(grads_BP)


def adam(moments: Mapping[str, tuple[Tensor, Tensor]], beta1: float, beta2: float, eps: float) -> Transform:
    """(b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g² + eps), in float32.

    `moments` maps a LoRA tensor's name to m and v, [numel] float32 on the model's device. KeyError for a name that is
    not there.
    """

    def transform(name: str, grads_BP: Tensor) -> Tensor:
        m_P, v_P = moments[name]
        grads_BP = grads_BP.float()
        above_BP = torch.add(m_P * beta1, grads_BP, alpha=1 - beta1)
        below_BP = torch.addcmul(v_P * beta2 + eps, grads_BP, grads_BP, value=1 - beta2)
        return above_BP.mul_(below_BP.rsqrt_())

    return transform
