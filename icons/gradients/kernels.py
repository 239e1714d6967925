"""Triton kernels of the two projections. Import where `operands.on_triton` holds, or under the interpreter.

Both run in two deterministic stages, without atomics: programs over (outputs, a range of positions, samples)
write float32 partial sums [splits, B, d]; a second kernel adds these to the output in order. The number of
splits depends on p and d alone, so a sample's sum has the same order at any batch size. Random bits are those
of `hashing`, repeated here on uint32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from icons.gradients.hashing import BLOCK, LANES, Key

PROGRAMS = 640
"""Programs to aim at for up to 16 samples: a few for each of the 132 processors of an H100 or H200."""
DENSE_PROGRAMS = 528
"""At most so many of the dense kernel's for up to 64 samples: four for each processor, and none waits for a place."""


@triton.jit  # type: ignore[untyped-decorator]
def _hash_words(counters: tl.tensor, key0: tl.tensor, key1: tl.tensor) -> tl.tensor:
    """`hashing.hash_words` on uint32 counters; the keys arrive as int32."""
    x = counters ^ key0.to(tl.uint32)
    x = x ^ (x >> 15)
    x = x * 0x2C1B3C6D
    x = x ^ (x >> 12)
    x = x * 0x297A2D39
    x = x ^ (x >> 15)
    x = x ^ key1.to(tl.uint32)
    x = x ^ (x >> 15)
    x = x * 0x2C1B3C6D
    x = x ^ (x >> 12)
    x = x * 0x297A2D39
    return x ^ (x >> 15)


@triton.jit(do_not_specialize=["batch", "key0", "key1"])  # type: ignore[untyped-decorator]
def _count_sketch_partials(
    grads: tl.tensor,  # [batch, size] float32, bfloat16 or float16
    offsets: tl.tensor,  # [ceil(size / DIM)] int32
    partials: tl.tensor,  # [splits, batch, DIM] float32, written
    size: tl.tensor,
    batch: tl.tensor,
    key0: tl.tensor,
    key1: tl.tensor,
    CHUNKS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    outputs = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    split = tl.program_id(1)
    samples = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    rows = grads + samples[:, None].to(tl.int64) * size
    total = tl.zeros((BLOCK_B, BLOCK_D), dtype=tl.float32)
    for step in range(CHUNKS):
        chunk = split * CHUNKS + step
        k = outputs - tl.load(offsets + chunk, mask=chunk * DIM < size, other=0)
        k = tl.where(k < 0, k + DIM, k)
        # No hint that these come in runs: where a chunk wraps they do not, and the threads read neighbours without it.
        positions = chunk * DIM + k
        inside = (outputs < DIM) & (positions < size)
        words = _hash_words((positions >> 5).to(tl.uint32), key0, key1)
        minus = (words >> (positions & 31).to(tl.uint32)) & 1
        mask = (samples[:, None] < batch) & inside[None, :]
        g = tl.load(rows + positions[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.where(minus[None, :] != 0, -g, g)
    target = (split.to(tl.int64) * batch + samples[:, None]) * DIM + outputs[None, :]
    tl.store(partials + target, total, mask=(samples[:, None] < batch) & (outputs[None, :] < DIM))


@triton.jit(do_not_specialize=["batch", "key0", "key1"])  # type: ignore[untyped-decorator]
def _rademacher_partials(
    grads: tl.tensor,  # [batch, size] float32, bfloat16 or float16
    partials: tl.tensor,  # [splits, batch, DIM] float32, written
    size: tl.tensor,
    batch: tl.tensor,
    key0: tl.tensor,
    key1: tl.tensor,
    BLOCKS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    LANES: tl.constexpr,
    IS_FLOAT32: tl.constexpr,
) -> None:
    outputs = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    split = tl.program_id(1)
    samples = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    lanes = tl.arange(0, LANES)
    columns = grads + samples[None, :].to(tl.int64) * size
    total = tl.zeros((BLOCK_D, BLOCK_B), dtype=tl.float32)
    for step in range(BLOCKS):
        block = split * BLOCKS + step
        word_rows = (block * LANES + lanes).to(tl.uint32)
        words = _hash_words(word_rows[None, :] * DIM + outputs[:, None].to(tl.uint32), key0, key1)
        for bit in range(32):
            positions = (block * 32 + bit) * LANES + lanes
            mask = (positions[:, None] < size) & (samples[None, :] < batch)
            g = tl.load(columns + positions[:, None], mask=mask, other=0.0)
            signs = tl.where(((words >> bit) & 1) != 0, -1.0, 1.0)
            if IS_FLOAT32:  # signs are exact in TF32, and so is g but for 2**-21 of it as the sum of two parts
                high = (g.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
                total = tl.dot(signs, g - high, total, input_precision="tf32")
                total = tl.dot(signs, high, total, input_precision="tf32")
            else:
                total = tl.dot(signs.to(g.dtype), g, total)
    target = (split.to(tl.int64) * batch + samples[None, :]) * DIM + outputs[:, None]
    tl.store(partials + target, total, mask=(samples[None, :] < batch) & (outputs[:, None] < DIM))


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _add_partials(
    partials: tl.tensor,  # [splits, count] float32
    out: tl.tensor,  # [count] float32, added to
    count: tl.tensor,
    scale: tl.tensor,
    SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = at < count
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    source = partials + at
    for _ in range(SPLITS):
        total += tl.load(source, mask=mask, other=0.0)
        source += count
    tl.store(out + at, tl.load(out + at, mask=mask, other=0.0) + scale * total, mask=mask)


def add_count_sketch(grads_BP: Tensor, out_BD: Tensor, offsets_J: Tensor, key: Key) -> None:
    """Adds the count sketch of one LoRA tensor to out_BD.

    grads_BP [B, p] float32, bfloat16 or float16 and out_BD [B, d] float32 contiguous on one device,
    p < 2**30; offsets_J [ceil(p / d)] int32; key: `TensorKeys.signs`.
    """
    (batch, size), dim = grads_BP.shape, out_BD.shape[1]
    block_b = min(16, triton.next_power_of_2(batch))
    block_d = 128
    programs = triton.cdiv(PROGRAMS, triton.cdiv(dim, block_d))
    splits, chunks_per_split = _split(triton.cdiv(size, dim), min(programs, triton.cdiv(size, 4 * dim)))
    partials = out_BD.new_empty(splits, batch, dim)
    with torch.cuda.device(grads_BP.get_device()):
        _count_sketch_partials[(triton.cdiv(dim, block_d), splits, triton.cdiv(batch, block_b))](
            grads_BP, offsets_J, partials, size, batch, *_signed(key),
            CHUNKS=chunks_per_split, DIM=dim, BLOCK_B=block_b, BLOCK_D=block_d,
        )  # fmt: skip
        _add(partials, out_BD, 1.0)


def add_rademacher(grads_BP: Tensor, out_BD: Tensor, key: Key) -> None:
    """Adds the dense projection of one LoRA tensor to out_BD.

    grads_BP [B, p] float32, bfloat16 or float16 and out_BD [B, d] float32 contiguous on one device,
    p < 2**30 and at most `hashing.max_dense_size(d)`; key: `TensorKeys.signs`.
    """
    (batch, size), dim = grads_BP.shape, out_BD.shape[1]
    splits, blocks_per_split, block_b, block_d = dense_plan(batch, size, dim)
    partials = out_BD.new_empty(splits, batch, dim)
    with torch.cuda.device(grads_BP.get_device()):
        _rademacher_partials[(triton.cdiv(dim, block_d), splits, triton.cdiv(batch, block_b))](
            grads_BP, partials, size, batch, *_signed(key),
            BLOCKS=blocks_per_split, DIM=dim, BLOCK_B=block_b, BLOCK_D=block_d,
            LANES=LANES, IS_FLOAT32=grads_BP.dtype == torch.float32,
        )  # fmt: skip
        _add(partials, out_BD, dim**-0.5)


def try_out() -> None:
    """A small sketch on the GPU; raises whatever is in the way of it: no compiler, no driver."""
    out = torch.zeros(1, 4, device="cuda")
    add_count_sketch(torch.ones(1, 8, device="cuda"), out, torch.zeros(2, dtype=torch.int32, device="cuda"), (1, 2))
    out.cpu()


def _add(partials: Tensor, out_BD: Tensor, scale: float) -> None:
    count = out_BD.numel()
    _add_partials[(triton.cdiv(count, 512),)](partials, out_BD, count, scale, SPLITS=partials.shape[0], BLOCK_N=512)


def dense_plan(batch: int, size: int, dim: int) -> tuple[int, int, int, int]:
    """(splits, blocks of positions a split, samples a program, outputs a program) of the dense kernel.

    A sign is made once for all samples of a program, up to 64. The first two depend on p and d alone.
    """
    block_b, block_d = min(64, max(16, triton.next_power_of_2(batch))), 64
    programs = max(1, DENSE_PROGRAMS // triton.cdiv(dim, block_d))
    return *_split(triton.cdiv(size, BLOCK), programs), block_b, block_d


def _split(pieces: int, programs: int) -> tuple[int, int]:
    """(splits, pieces a split): at most `programs` splits that share the pieces."""
    pieces_per_split = triton.cdiv(pieces, min(programs, pieces))
    return triton.cdiv(pieces, pieces_per_split), pieces_per_split


def _signed(key: Key) -> tuple[int, int]:
    """The key words as int32, the one type that Triton gives an argument whatever its value."""
    return key[0] - 2**32 * (key[0] >> 31), key[1] - 2**32 * (key[1] >> 31)
