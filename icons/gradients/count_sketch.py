"""Count sketch: a sparse +-1 projection that costs one pass over the gradient.

A flattened LoRA tensor g [p] is cut in chunks of length d (the last may be shorter). Chunk j is multiplied by
random signs, rotated by a random offset o_j and added to the d outputs:

    out[(k + o_j) mod d] += sign(j * d + k) * g[j * d + k]

Each position meets exactly one output with weight +-1, so there is no scale factor: E <Px, Py> = <x, y>, with
the variance of a dense +-1 / sqrt(d) matrix, (|x|^2 |y|^2 + <x, y>^2 - 2 sum_i x_i^2 y_i^2) / d, less the
terms of positions of one chunk, which never collide. Charikar, Chen and Farach-Colton 2002; Weinberger et al.
2009 (arXiv 0902.2206).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from icons.gradients.hashing import Key, offsets, signs_at, tensor_keys
from icons.gradients.kinds import VERSIONS
from icons.gradients.operands import check_dim, check_operands, on_triton


class CountSketch:
    """`projection.Projector` of kind "count_sketch".

    On the CPU it keeps the signs of every tensor it has seen as float32, as much memory as the LoRA weights
    themselves; on a GPU only the offsets, one integer a chunk.
    """

    kind = "count_sketch"
    version = VERSIONS[kind]

    def __init__(self, dim: int, seed: int) -> None:
        check_dim(dim)
        self.dim = dim
        self.seed = seed
        self._plans: dict[tuple[str, int], SlicePlan] = {}
        self._offsets: dict[tuple[str, int, torch.device], Tensor] = {}

    @torch.no_grad()
    def add(self, name: str, grads_BP: Tensor, out_BD: Tensor) -> None:
        """See `projection.Projector.add`; p < 2**30."""
        check_operands(name, grads_BP, out_BD, self.dim)
        size = grads_BP.shape[1]
        if grads_BP.numel() == 0:
            return
        if grads_BP.device.type == "cpu":
            plan = self._plans.get((name, size))
            if plan is None:
                keys = tensor_keys(self.seed, self.kind, name)
                starts = offsets(-(-size // self.dim), self.dim, keys.offsets)
                plan = self._plans[name, size] = plan_slices(size, self.dim, starts, keys.signs)
            add_by_slices(grads_BP, out_BD, plan)
            return
        keys = tensor_keys(self.seed, self.kind, name)
        where = (name, size, grads_BP.device)
        if where not in self._offsets:
            starts = offsets(-(-size // self.dim), self.dim, keys.offsets)
            self._offsets[where] = starts.to(torch.int32).to(grads_BP.device)
        if on_triton(grads_BP):
            from icons.gradients import kernels

            kernels.add_count_sketch(grads_BP, out_BD, self._offsets[where], keys.signs)
        else:
            add_by_gather(grads_BP, out_BD, self._offsets[where], keys.signs)


@dataclass(frozen=True)
class SlicePlan:
    """A tensor's chunks as slices that do not wrap around the d outputs, at most two a chunk, in order.

    Slice s covers the next sizes[s] positions, has the signs signs[s] (views of one float32 [p]) and goes to
    the outputs from starts[s] on.
    """

    sizes: list[int]
    starts: list[int]
    signs: list[Tensor]


def plan_slices(size: int, dim: int, offsets_J: Tensor, key: Key) -> SlicePlan:
    """Cuts `size` positions into slices; offsets_J is one offset per chunk, integers in [0, dim)."""
    sizes: list[int] = []
    starts: list[int] = []
    for chunk, offset in enumerate(offsets_J.tolist()):
        length = min(dim, size - chunk * dim)
        before_wrap = min(length, dim - offset)
        sizes.append(before_wrap)
        starts.append(offset)
        if length > before_wrap:
            sizes.append(length - before_wrap)
            starts.append(0)
    signs_P = signs_at(torch.arange(size), key)
    return SlicePlan(sizes, starts, list(signs_P.split_with_sizes(sizes)))


def add_by_slices(grads_BP: Tensor, out_BD: Tensor, plan: SlicePlan) -> None:
    """The CPU's way: one fused multiply-add a slice, no temporary.

    Measured at B = 16, d = 5120, p = 4096 to 1.4 million on one core of an AMD EPYC: 0.24 to 0.5 ns per
    gradient element, against 0.4 to 2.4 for multiplying first and 2.7 to 6.7 for a gather; int8 signs cost 10
    to 30% more.
    """
    slices = grads_BP.float().split_with_sizes(plan.sizes, 1)
    for grads_BS, signs_S, start in zip(slices, plan.signs, plan.starts, strict=True):
        out_BD.narrow(1, start, grads_BS.shape[1]).addcmul_(grads_BS, signs_S)


def add_by_gather(grads_BP: Tensor, out_BD: Tensor, offsets_J: Tensor, key: Key) -> None:
    """The same in a few large operations, for a device without Triton; copies the gradient, rotated."""
    (batch, size), dim = grads_BP.shape, out_BD.shape[1]
    device = grads_BP.device
    chunk_J1 = torch.arange(len(offsets_J), device=device)[:, None]
    source_JD = chunk_J1 * dim + (torch.arange(dim, device=device) - offsets_J[:, None]) % dim
    weight_JD = signs_at(source_JD, key) * (source_JD < size)
    rotated = grads_BP.index_select(1, source_JD.clamp(max=size - 1).view(-1)).float()
    out_BD += rotated.view(batch, -1, dim).mul_(weight_JD).sum(1)
