"""Dense Rademacher projection: out[c] = sum_i sign(i, c) * g[i] / sqrt(d), every sign independent.

The published kind (TRAK's projector, arXiv 2303.14186), for comparison. The matrix is never stored: its signs
are hashed when they are needed, 32 to a word (`hashing.dense_sign_words`). One LoRA tensor costs p * d signs
for any number of samples, so put as many samples in a batch as fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icons.gradients.hashing import BLOCK, LANES, Key, dense_sign_words, max_dense_size, tensor_keys
from icons.gradients.kinds import VERSIONS
from icons.gradients.operands import MAX_SIZE, check_dim, check_operands, on_triton

WORD_CACHE_BYTES = 256 * 2**20
SIGNS_AT_ONCE = 5 * 2**18  # 5 MB of float32 signs, made and used while they are in the CPU's cache


class Rademacher:
    """`projection.Projector` of kind "rademacher".

    Off the GPU it keeps up to `WORD_CACHE_BYTES` of sign words (one bit a sign), which saves a quarter of the
    time of a small model's projection.
    """

    kind = "rademacher"
    version = VERSIONS[kind]

    def __init__(self, dim: int, seed: int) -> None:
        check_dim(dim)
        self.dim = dim
        self.seed = seed
        self._words: dict[tuple[str, int, torch.device], Tensor] = {}
        self._words_bytes = 0

    @torch.no_grad()
    def add(self, name: str, grads_BP: Tensor, out_BD: Tensor) -> None:
        """See `projection.Projector.add`; p < 2**30 and p * dim < 2**37, where the 32-bit counters end."""
        check_operands(name, grads_BP, out_BD, self.dim, min(MAX_SIZE, max_dense_size(self.dim)))
        if grads_BP.numel() == 0:
            return
        key = tensor_keys(self.seed, self.kind, name).signs
        if on_triton(grads_BP):
            from icons.gradients import kernels

            kernels.add_rademacher(grads_BP, out_BD, key)
            return
        for block in range(-(-grads_BP.shape[1] // BLOCK)):
            words = self._block_words(name, block, key, grads_BP.device)
            add_block(grads_BP[:, block * BLOCK : (block + 1) * BLOCK].float(), out_BD, words)

    def _block_words(self, name: str, block: int, key: Key, device: torch.device) -> Tensor:
        cached = self._words.get((name, block, device))
        if cached is not None:
            return cached
        words = dense_sign_words(block, self.dim, key, device)
        if self._words_bytes + words.nbytes <= WORD_CACHE_BYTES:
            self._words[name, block, device] = words
            self._words_bytes += words.nbytes
        return words


def add_block(grads_BN: Tensor, out_BD: Tensor, words: Tensor) -> None:
    """Adds one block of N <= 2048 positions, float32 [B, N]; words int32 [64, d] of `dense_sign_words`."""
    dim = out_BD.shape[1]
    bits_at_once = max(1, min(32, SIGNS_AT_ONCE // (LANES * dim)))
    for bit in range(0, -(-grads_BN.shape[1] // LANES), bits_at_once):
        part_BN = grads_BN[:, bit * LANES : (bit + bits_at_once) * LANES]
        signs_ND = unpack_signs(words, bit, min(bits_at_once, 32 - bit))[: part_BN.shape[1]]
        out_BD.addmm_(part_BN, signs_ND, alpha=dim**-0.5)


def unpack_signs(words: Tensor, first_bit: int, bits: int) -> Tensor:
    """Signs +1.0 / -1.0, float32 [bits * 64, d], from words int32 [64, d].

    Takes bits first_bit to first_bit + bits - 1. A bit is moved to where float32 keeps its sign and joined
    with the pattern of 1.0.
    """
    last = 31 - first_bit
    shifts = torch.arange(last, last - bits, -1, dtype=torch.int32, device=words.device)
    signs = words << shifts[:, None, None]
    signs.bitwise_and_(-(2**31)).bitwise_or_(0x3F800000)
    return signs.view(torch.float32).view(bits * LANES, -1)
