"""What may be handed to a projector, and whether the Triton kernels can take it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

MAX_SIZE = 2**30 - 1
"""The most parameters of one LoRA tensor, so that positions fit in 32 bits with room for a block to overhang."""

GRAD_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_dim(dim: int) -> None:
    """Raises ValueError unless 1 <= dim < 2**24 (so that indices stay below 2**31)."""
    if not 1 <= dim < 2**24:
        raise ValueError(f"projection dim must be in [1, 2**24), got {dim}")


def check_operands(name: str, grads_BP: Tensor, out_BD: Tensor, dim: int, max_size: int = MAX_SIZE) -> None:
    """Checks the contract of `Projector.add`; raises ValueError that names the LoRA tensor.

    grads_BP is [B, p] float32, bfloat16 or float16, contiguous, p <= max_size; out_BD is [B, dim] float32,
    contiguous, on the same device.
    """
    if grads_BP.ndim != 2 or out_BD.shape != (grads_BP.shape[0], dim):
        raise ValueError(
            f"{name}: expected gradients [B, p] and an output [B, {dim}], "
            f"got {list(grads_BP.shape)} and {list(out_BD.shape)}"
        )
    if grads_BP.dtype not in GRAD_DTYPES or out_BD.dtype != torch.float32:
        raise ValueError(
            f"{name}: expected float32, bfloat16 or float16 gradients and a float32 output, "
            f"got {grads_BP.dtype} and {out_BD.dtype}"
        )
    if not grads_BP.is_contiguous() or not out_BD.is_contiguous():
        raise ValueError(f"{name}: gradients and output must be contiguous")
    if grads_BP.device != out_BD.device:
        raise ValueError(f"{name}: gradients are on {grads_BP.device}, the output on {out_BD.device}")
    if grads_BP.shape[1] > max_size:
        raise ValueError(f"{name}: {grads_BP.shape[1]} parameters, at most {max_size} can be projected to {dim}")


def on_triton(tensor: Tensor) -> bool:
    """True for a CUDA tensor where Triton's kernels can be used."""
    return tensor.is_cuda and triton_problem() is None


@cache
def triton_problem() -> str | None:
    """Why Triton's kernels cannot be used here, in a few words; None where they can. Compiles and runs a small one.

    Triton compiles when a kernel is first called, with a C compiler that a cluster's computing nodes may not have.
    """
    if find_spec("triton") is None:
        return "the triton package is not installed"
    try:
        from icons.gradients import kernels

        kernels.try_out()
    except Exception as error:  # of Triton, the compiler or the driver: each has kinds of its own
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None
