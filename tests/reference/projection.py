"""The projection matrices written from their definition, in Python and NumPy integers; shares no code with icons.

A word is round(round(c ^ k0) ^ k1), all in 32 bits. BLAKE2b-128 of "seed NUL kind NUL tensor name", personalised
"icons/projection", gives the four little-endian words: k0, k1 of the signs, k0, k1 of the offsets.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]


def keys(seed: int, kind: str, name: str) -> Words:
    text = b"\x00".join([str(seed).encode(), kind.encode(), name.encode("utf-8")])
    digest = hashlib.blake2b(text, digest_size=16, person=b"icons/projection").digest()
    return np.frombuffer(digest, dtype="<u4").astype(np.uint32)


def word(counter: NDArray[np.uint64], key: Words) -> Words:
    x = counter.astype(np.uint32)
    for part in key:
        x = x ^ part
        x = x ^ (x >> np.uint32(15))
        x = x * np.uint32(0x2C1B3C6D)
        x = x ^ (x >> np.uint32(12))
        x = x * np.uint32(0x297A2D39)
        x = x ^ (x >> np.uint32(15))
    return x


def count_sketch(dim: int, seed: int, name: str, size: int) -> NDArray[np.float64]:
    """P [dim, size]: position j * dim + k goes to output (k + o_j) mod dim with weight +-1."""
    key = keys(seed, "count_sketch", name)
    matrix = np.zeros((dim, size))
    for position in range(size):
        chunk, k = divmod(position, dim)
        offset = int(word(np.array([chunk], dtype=np.uint64), key[2:])[0]) * dim // 2**32
        bits = int(word(np.array([position // 32], dtype=np.uint64), key[:2])[0])
        matrix[(k + offset) % dim, position] = -1 if bits >> (position % 32) & 1 else 1
    return matrix


def rademacher(dim: int, seed: int, name: str, size: int) -> NDArray[np.float64]:
    """P [dim, size]: +-1 / sqrt(dim). Position 2048 q + 64 b + r and output c use bit b of word (64 q + r) dim + c."""
    key = keys(seed, "rademacher", name)
    matrix = np.zeros((dim, size))
    outputs = np.arange(dim, dtype=np.uint64)
    for position in range(size):
        block, inside = divmod(position, 2048)
        bit, row = divmod(inside, 64)
        words = word(np.uint64((64 * block + row) * dim) + outputs, key[:2])
        matrix[:, position] = 1.0 - 2.0 * ((words >> np.uint32(bit)) & np.uint32(1))
    return matrix / np.sqrt(dim)


MATRIX = {"count_sketch": count_sketch, "rademacher": rademacher}
