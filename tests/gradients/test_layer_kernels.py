"""Fused element-wise work against the layers' own: values, gradients, and a graph gone through twice."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icons.gradients.operands import triton_problem
from icons.gradients.per_sample import ForwardPass, backpropagate
from icons.models.fused import NORMS, fused_parts, in_place_of_their_own
from icons.models.last_layer import rotated
from icons.models.vlm import VisionLanguageModel
from tests.conftest import ROOT
from tests.gradients.small_llama import forward_pass, small_llama

CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2**-7}
"""Of a norm: float32 to a few last bits, bfloat16 to one rounding."""


def near(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    assert ours.dtype == theirs.dtype == dtype
    return bool((ours - theirs).double().norm() <= CLOSE[dtype] * theirs.double().norm())


def gradients(model: VisionLanguageModel, *, fused: bool, kernels: bool) -> dict[str, Tensor]:
    """Every sample's, from the second of two backward passes through one graph."""
    batch = forward_pass(model, 3, 21)
    swaps = fused_parts(model.base.get_decoder(), kernels=kernels) if fused else []

    def hidden() -> Tensor:
        with in_place_of_their_own(swaps, kernels=fused and kernels):
            return batch.hidden()

    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    passed = ForwardPass(batch.pairs, hidden, batch.head, batch.labels_BT)
    backpropagate(passed, first.__setitem__, second.__setitem__)
    assert all(torch.equal(first[name], second[name]) for name in first)
    return second


@pytest.mark.parametrize("name", sorted(NORMS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_the_one_of_its_class(name: str, dtype: torch.dtype) -> None:
    module, _, kind = name.rpartition(".")
    norm = getattr(importlib.import_module(module), kind)(48, eps=1e-3).to(dtype).requires_grad_(False)
    nn.init.normal_(norm.weight)
    ((same, fused),) = fused_parts(norm, kernels=False)
    assert same is norm
    torch.manual_seed(0)
    x, weigh = torch.randn(2, 5, 48).to(dtype), torch.randn(2, 5, 48).to(dtype)
    found = []
    for forward in (norm.forward, fused):
        x = x.detach().requires_grad_()
        y = forward(x)
        y.backward(weigh)
        assert x.grad is not None
        found.append((y.detach(), x.grad))
    for ours, theirs in zip(*found, strict=True):
        assert near(ours, theirs, dtype)


def test_gradients_of_a_model_with_fused_norms() -> None:
    model = small_llama()
    plain, fused = (gradients(model, fused=fused, kernels=False) for fused in (False, True))
    assert len(fused_parts(model.base.get_decoder(), kernels=False)) == 5
    for name in plain:
        torch.testing.assert_close(fused[name], plain[name], rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_not_known_stays_as_it_is() -> None:
    class OwnNorm(nn.Module):
        """Named as one that is known."""

    OwnNorm.__qualname__ = "LlamaRMSNorm"
    gelu = small_llama(hidden_act="gelu").base.get_decoder()
    assert fused_parts(OwnNorm(), kernels=True) == []
    assert {type(module).__name__ for module, _ in fused_parts(gelu, kernels=True)} == {"LlamaRMSNorm"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_kernels_that_cannot_run_are_found_out_in_words() -> None:
    problem = triton_problem()
    assert problem
    assert "\n" not in problem


@pytest.mark.skipif(find_spec("triton") is None, reason="the triton package is not installed")
def test_the_kernels_under_the_interpreter_equal_the_layers_own() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "tests.gradients.test_layer_kernels"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compared", "8"]


def compare_kernels_with_the_layers() -> None:
    compared = 0
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        compared += compare_swiglu(dtype) + compare_rotary(dtype)
    plain, fused = (gradients(small_llama(), fused=fused, kernels=True) for fused in (False, True))
    assert all(near(fused[name], plain[name], torch.float32) for name in plain)
    exact = gradients(as_bfloat16_sees_it(), fused=False, kernels=False)
    halves = [gradients(small_llama(torch.bfloat16), fused=fused, kernels=True) for fused in (False, True)]
    off, fused_off = (sum(float((half[name] - exact[name]).square().sum()) for name in exact) for half in halves)
    assert fused_off <= 1.05 * off
    print("compared", compared + 2)


def as_bfloat16_sees_it() -> VisionLanguageModel:
    """A float32 model with the weights of the bfloat16 one."""
    model = small_llama()
    for name, parameter in model.peft.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16().float()
    return model


def compare_swiglu(dtype: torch.dtype) -> int:
    from icons.gradients.layer_kernels import swiglu

    gate, up, weigh = (torch.randn(3, 7, 150).to(dtype) for _ in range(3))
    check(swiglu, lambda g, u: (F.silu(g.float()) * u.float()).to(dtype), (gate, up), weigh)
    return 1


def compare_rotary(dtype: torch.dtype) -> int:
    """Queries as a projection leaves them and as they lie in memory; positions of each sample and of all."""
    from icons.gradients.layer_kernels import rotary

    turns = torch.randn(2, 2, 90, 12).to(dtype)
    for heads, strided, (cos, sin) in ((4, True, turns), (1, False, turns[:, :1])):
        x = torch.randn(2, 90, heads, 12).transpose(1, 2) if strided else torch.randn(2, heads, 90, 12)
        weigh = torch.randn(2, heads, 90, 12) if strided else torch.randn(12, 2, heads, 90).permute(1, 2, 3, 0)
        check(
            partial(rotary, cos_BTD=cos, sin_BTD=sin),
            partial(exact_rotary, cos=cos.float(), sin=sin.float()),
            (x.to(dtype),),
            weigh.to(dtype),
        )
    return 2


def exact_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rotated(x.float(), cos, sin).to(x.dtype)


def check(ours: object, theirs: object, inputs: tuple[Tensor, ...], weigh: Tensor) -> None:
    """Values, and gradients twice through one graph."""
    found = []
    for function in (ours, theirs):
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = function(*leaves)  # type: ignore[operator]
        first = torch.autograd.grad(y, leaves, weigh, retain_graph=True)
        second = torch.autograd.grad(y, leaves, weigh)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        found.append([y.detach(), *second])
    for a, b in zip(*found, strict=True):
        assert near(a, b, weigh.dtype), (a - b).abs().max()


if __name__ == "__main__":
    compare_kernels_with_the_layers()
