"""The random signs and offsets of a projection, as a pure function of (seed, kind, tensor name, counter).

Every random bit is one bit of `hash_words(counter)`: a keyed permutation of the 32-bit integers, so that it
is the same on any device, in any order, at any batch size and under any version of torch. The key comes from
BLAKE2b (RFC 7693); the permutation is two multiply-xorshift rounds (of the family of MurmurHash3's finaliser;
shifts and multipliers by C. Wellons, "Prospecting for hash functions", 2018), each after adding its key word
by exclusive or:

    round(x): x ^= x >> 15; x *= 0x2c1b3c6d; x ^= x >> 12; x *= 0x297a2d39; x ^= x >> 15        (mod 2**32)
    hash_words(c) = round(round(c ^ key[0]) ^ key[1])

This file is the reference; `kernels` repeats it in registers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

WORD = 2**32
"""Counters and words are integers in [0, WORD)."""

Key = tuple[int, int]
"""Two 32-bit integers, each in [0, WORD)."""


@dataclass(frozen=True)
class TensorKeys:
    """The independent streams of one LoRA tensor: one of signs, one of offsets (count_sketch only)."""

    signs: Key
    offsets: Key


def tensor_keys(seed: int, kind: str, name: str) -> TensorKeys:
    """Keys of the LoRA tensor `name` for a projection `kind`.

    BLAKE2b-128 of "seed NUL kind NUL name" in UTF-8, personalised with "icons/projection", read as four
    little-endian 32-bit integers.
    """
    text = f"{seed}\0{kind}\0{name}".encode()
    digest = hashlib.blake2b(text, digest_size=16, person=b"icons/projection").digest()
    a, b, c, d = (int.from_bytes(digest[at : at + 4], "little") for at in range(0, 16, 4))
    return TensorKeys(signs=(a, b), offsets=(c, d))


def hash_words(counters: Tensor, key: Key) -> Tensor:
    """Pseudo-random words in [0, 2**32), int64, of the shape and on the device of `counters`.

    `counters` is int64 with values in [0, 2**32); different counters give different words. Both multipliers
    are below 2**30, so no product leaves int64.
    """
    return _round_(_round_(counters ^ key[0]) ^ key[1])


def _round_(x: Tensor) -> Tensor:
    """One round, in place on `x`."""
    x ^= x >> 15
    x *= 0x2C1B3C6D
    x &= WORD - 1
    x ^= x >> 12
    x *= 0x297A2D39
    x &= WORD - 1
    x ^= x >> 15
    return x


def signs_at(positions: Tensor, key: Key) -> Tensor:
    """Signs +1.0 / -1.0 (float32, same shape and device) of `positions`, int64 in [0, 2**37).

    Position i has bit (i mod 32) of word (i div 32); a set bit is -1.
    """
    bits = (hash_words(positions >> 5, key) >> (positions & 31)) & 1
    return (1 - 2 * bits).to(torch.float32)


def offsets(count: int, dim: int, key: Key, device: torch.device | None = None) -> Tensor:
    """Offsets [count], int64 in [0, dim), near uniform: (word(j) * dim) div 2**32, for dim < 2**31."""
    return (hash_words(torch.arange(count, device=device), key) * dim) >> 32


LANES = 64
BLOCK = 32 * LANES
"""A dense sign matrix is made in blocks of 2048 positions: 64 words an output, 32 signs a word."""


def dense_sign_words(block: int, dim: int, key: Key, device: torch.device | None = None) -> Tensor:
    """Sign bits of positions [2048 * block, 2048 * (block + 1)) against all `dim` outputs: int32 [64, dim].

    Row r, output c is hash_words((64 * block + r) * dim + c), as a signed number. Its bit b is the sign of
    position 2048 * block + 64 * b + r, so shifting a whole tile of words by b gives the signs of 64
    neighbouring positions, which is what a matrix product wants. Counters must stay below 2**32, so block is
    less than max_dense_size(dim) / 2048.
    """
    start = block * LANES * dim
    words = hash_words(torch.arange(start, start + LANES * dim, device=device), key)
    return ((words ^ 2**31) - 2**31).to(torch.int32).view(LANES, dim)


def max_dense_size(dim: int) -> int:
    """The most positions that a dense sign matrix of `dim` outputs can have with 32-bit counters."""
    return WORD // (LANES * dim) * BLOCK
