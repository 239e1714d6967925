"""One adapted layer: outputs and gradients against autograd in float64, and how far bfloat16 rounds them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icons.gradients.adapted import per_sample_gradients
from icons.gradients.lora import LoraPair
from icons.gradients.siblings import Siblings

WIDE, OUT, RANK, SCALING = 96, 160, 8, 1 / 3


def layer(dtype: torch.dtype, *, bias: bool) -> LoraPair:
    torch.manual_seed(0)
    base, a, b = nn.Linear(WIDE, OUT, bias), nn.Linear(WIDE, RANK, bias=False), nn.Linear(RANK, OUT, bias=False)
    return LoraPair("layer", nn.Module(), base.to(dtype).requires_grad_(False), a, b, SCALING, Siblings(dtype, [a]))


def ours(pair: LoraPair, x_BTI: Tensor, weigh_BTO: Tensor) -> list[Tensor]:
    """Output, the input's gradient, and each sample's dA and dB, of the sum of the outputs weighed."""
    found: dict[str, Tensor] = {}
    x_BTI = x_BTI.detach().requires_grad_()
    with per_sample_gradients([pair], found.__setitem__):
        y_BTO = pair.module.forward(x_BTI)
        y_BTO.backward(weigh_BTO)
    assert x_BTI.grad is not None
    return [y_BTO.detach(), x_BTI.grad, found["layer.lora_A.weight"], found["layer.lora_B.weight"]]


def by_autograd(pair: LoraPair, x_BTI: Tensor, weigh_BTO: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The same one sample at a time, the layer written as PEFT writes it."""
    parts: list[list[Tensor]] = []
    bias = None if pair.base.bias is None else pair.base.bias.to(dtype)
    for x_TI, weigh_TO in zip(x_BTI.to(dtype), weigh_BTO.to(dtype), strict=True):
        a, b = (layer.weight.detach().to(dtype).requires_grad_() for layer in (pair.a, pair.b))
        x_TI = x_TI.detach().requires_grad_()
        y_TO = F.linear(x_TI, pair.base.weight.to(dtype), bias) + F.linear(F.linear(x_TI, a), b) * SCALING
        parts.append([y_TO.detach(), *(g.flatten() if g.shape != x_TI.shape else g for g in torch.autograd.grad(
            y_TO, [x_TI, a, b], weigh_TO))])  # fmt: skip
    return [torch.stack(part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("contiguous", [False, True])
def test_a_layer_equals_autograd(bias: bool, contiguous: bool) -> None:
    pair = layer(torch.float32, bias=bias)
    x = torch.randn(3, 20, WIDE) if contiguous else torch.randn(3, WIDE, 20).transpose(1, 2)
    weigh = torch.randn(3, 20, OUT) if contiguous else torch.randn(OUT, 3, 20).permute(1, 2, 0)
    for got, expected in zip(ours(pair, x, weigh), by_autograd(pair, x, weigh, torch.float64), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_rounds_no_more_than_the_layer_as_peft_writes_it() -> None:
    pair = layer(torch.bfloat16, bias=False)
    x, weigh = torch.randn(4, 64, WIDE).bfloat16(), torch.randn(4, 64, OUT).bfloat16()
    exact = by_autograd(pair, x, weigh, torch.float64)
    theirs = by_autograd(pair, x, weigh, torch.bfloat16)
    for got, other, expected in zip(ours(pair, x, weigh), theirs, exact, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - expected).norm() <= 1.01 * (other - expected).norm()


def test_what_a_batch_multiplies_with_is_made_once_and_rounded_once() -> None:
    pair = layer(torch.bfloat16, bias=False)
    a, scaled_b = pair.siblings.stacked, pair.scaled_b
    assert torch.equal(a, pair.a.weight.bfloat16())
    assert torch.equal(scaled_b, (pair.b.weight.double() * SCALING).float().bfloat16())
    x, weigh = torch.randn(2, 5, WIDE).bfloat16(), torch.randn(2, 5, OUT).bfloat16()
    with torch.no_grad():
        pair.b.weight.zero_()
    assert torch.equal(ours(pair, x, weigh)[0], ours(pair, x, weigh)[0])
    assert pair.siblings.stacked is a
    assert pair.scaled_b is scaled_b


def test_what_is_multiplied_is_copied_only_to_change_it() -> None:
    pair = layer(torch.float32, bias=False)
    assert pair.siblings.stacked.data_ptr() == pair.a.weight.data_ptr()
