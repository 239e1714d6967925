"""A random projection of LoRA gradients: R^P -> R^d, one LoRA tensor at a time.

P g = sum over LoRA tensors of P_name g_name. The columns of P that belong to a tensor are a function of
(seed, kind, the tensor's canonical name, position in its row-major flattening) alone; see `hashing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from torch import Tensor

from icons.gradients.kinds import PROJECTIONS


class Projector(Protocol):
    """`kind`, `dim` and `version` (with the seed) identify the matrix and belong in a fingerprint.

    `version` changes whenever the same (kind, dim, seed) would give other numbers.
    """

    kind: str
    dim: int
    version: int

    def add(self, name: str, grads_BP: Tensor, out_BD: Tensor) -> None:
        """Adds P_name @ g for every sample of a batch to out_BD.

        grads_BP: [B, p] float32, bfloat16 or float16, contiguous; p = numel of the LoRA tensor, row-major.
        out_BD: [B, d] float32, contiguous, on the same device; accumulation is in float32.
        A sample's result does not depend on the rest of its batch. Raises ValueError for other operands.
        """
        ...


def make_projector(kind: str, dim: int, seed: int) -> Projector:
    """The projector of a kind in `kinds.PROJECTIONS`; ValueError for another kind or a dim out of range."""
    if kind not in PROJECTIONS:
        raise ValueError(f"unknown projection {kind!r}; expected one of {', '.join(PROJECTIONS)}")
    module, _, name = PROJECTIONS[kind].partition(":")
    projector: Projector = getattr(import_module(module), name)(dim, seed)
    return projector
