"""Triton kernels of a decoder layer's element-wise work: SwiGLU and rotary embedding, forward and backward.

Each reads its operands once and writes its result once, in the operands' dtype; between lies float32. Nothing that a
backward pass reads is written to, so that a graph can be gone through twice.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _swiglu(gate: tl.tensor, up: tl.tensor, out: tl.tensor, count: tl.tensor, BLOCK: tl.constexpr) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    g = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=mask, other=0.0).to(tl.float32)
    y = g / (1 + tl.exp(-g)) * u
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _swiglu_backward(
    gate: tl.tensor,
    up: tl.tensor,
    grad: tl.tensor,
    grad_gate: tl.tensor,
    grad_up: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    g = tl.load(gate + at, mask=mask, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    s = 1 / (1 + tl.exp(-g))
    tl.store(grad_up + at, (d * g * s).to(grad_up.dtype.element_ty), mask=mask)
    tl.store(grad_gate + at, (d * u * s * (1 + g * (1 - s))).to(grad_gate.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens", "x_b", "x_n", "x_t", "y_b", "y_n", "y_t", "c_b", "c_t"])  # type: ignore[untyped-decorator]
def _rotate(
    x: tl.tensor,  # [batch, heads, tokens, 2 HALF], the last axis contiguous
    cos: tl.tensor,  # [batch or 1, tokens, 2 HALF]
    sin: tl.tensor,
    y: tl.tensor,  # as x, written
    tokens: tl.tensor,
    x_b: tl.tensor,  # strides
    x_n: tl.tensor,
    x_t: tl.tensor,
    y_b: tl.tensor,
    y_n: tl.tensor,
    y_t: tl.tensor,
    c_b: tl.tensor,
    c_t: tl.tensor,
    HALF: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BACKWARD: tl.constexpr,
) -> None:
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    head = tl.program_id(1).to(tl.int64)
    sample = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, BLOCK_H)[None, :]
    mask = (token < tokens) & (k < HALF)
    from_x = x + sample * x_b + head * x_n + token.to(tl.int64) * x_t + k
    from_c = sample * c_b + token.to(tl.int64) * c_t + k
    first = tl.load(from_x, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(from_x + HALF, mask=mask, other=0.0).to(tl.float32)
    cos_1 = tl.load(cos + from_c, mask=mask, other=0.0).to(tl.float32)
    cos_2 = tl.load(cos + from_c + HALF, mask=mask, other=0.0).to(tl.float32)
    sin_1 = tl.load(sin + from_c, mask=mask, other=0.0).to(tl.float32)
    sin_2 = tl.load(sin + from_c + HALF, mask=mask, other=0.0).to(tl.float32)
    if BACKWARD:
        turned_1 = first * cos_1 + second * sin_2
        turned_2 = second * cos_2 - first * sin_1
    else:
        turned_1 = first * cos_1 - second * sin_1
        turned_2 = second * cos_2 + first * sin_2
    to_y = y + sample * y_b + head * y_n + token.to(tl.int64) * y_t + k
    tl.store(to_y, turned_1.to(y.dtype.element_ty), mask=mask)
    tl.store(to_y + HALF, turned_2.to(y.dtype.element_ty), mask=mask)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        with torch.cuda.device(gate.get_device()):
            _swiglu[_blocks(gate)](gate, up, out, gate.numel(), BLOCK=BLOCK)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        with torch.cuda.device(gate.get_device()):
            _swiglu_backward[_blocks(gate)](gate, up, grad.contiguous(), grad_gate, grad_up, gate.numel(), BLOCK=BLOCK)
        return grad_gate, grad_up


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BNTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
        ctx.turn = cos_BTD.contiguous(), sin_BTD.contiguous()
        return _turned(x_BNTD, *ctx.turn, backward=False)

    @staticmethod
    def backward(ctx: Any, grad_BNTD: Tensor) -> tuple[Tensor, None, None]:
        return _turned(grad_BNTD, *ctx.turn, backward=True), None, None


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer, arXiv 2002.05202), of one shape and dtype; the graph keeps the two and nothing else."""
    out: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


def rotary(x_BNTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
    """x cos + rotate_half(x) sin, as Llama's layers turn queries and keys (Su et al., arXiv 2104.09864).

    cos and sin [B or 1, T, D] ask for no gradient; D is even. The graph keeps nothing of x.
    """
    out: Tensor = _Rotary.apply(x_BNTD, cos_BTD, sin_BTD)  # type: ignore[no-untyped-call]
    return out


def _turned(x_BNTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor, *, backward: bool) -> Tensor:
    if x_BNTD.stride(-1) != 1:
        x_BNTD = x_BNTD.contiguous()
    batch, heads, tokens, dim = x_BNTD.shape
    y_BNTD = torch.empty_like(x_BNTD)
    c_b = cos_BTD.stride(0) if cos_BTD.shape[0] > 1 else 0
    block_h = triton.next_power_of_2(dim // 2)
    block_t = max(1, BLOCK // block_h)
    with torch.cuda.device(x_BNTD.get_device()):
        _rotate[(triton.cdiv(tokens, block_t), heads, batch)](
            x_BNTD, cos_BTD, sin_BTD, y_BNTD, tokens, *x_BNTD.stride()[:3], *y_BNTD.stride()[:3],
            c_b, cos_BTD.stride(1), HALF=dim // 2, BLOCK_T=block_t, BLOCK_H=block_h, BACKWARD=backward,
        )  # fmt: skip
    return y_BNTD


def _blocks(tensor: Tensor) -> tuple[int]:
    return (triton.cdiv(tensor.numel(), BLOCK),)
