"""The checksum of a shard: XXH3 of 128 bits, which is read as fast as memory.

It says when a byte is no longer what was written, by a disk, a copy or a hand. It is no proof against one who forges a
file; what is small has a SHA-256. Shards of earlier versions have a SHA-256 too, and are compared with that.
"""

from __future__ import annotations

import hashlib

import xxhash

SHA256_DIGITS = 64


def checksum(content: bytes | memoryview) -> str:
    """32 hex digits."""
    return xxhash.xxh3_128_hexdigest(content)


def fits(content: bytes | memoryview, expected: str) -> bool:
    """Whether the bytes have this checksum, of today's kind or, with 64 hex digits, a SHA-256."""
    if len(expected) == SHA256_DIGITS:
        return hashlib.sha256(content).hexdigest() == expected
    return checksum(content) == expected
