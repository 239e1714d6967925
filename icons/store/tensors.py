"""The tensors of a safetensors file where its bytes lie, without a copy, and a file's bytes read into one's own memory.

The library's reader copies each tensor while it holds Python's lock, so that threads that read shards wait for each
other.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from icons.store.files import Array

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def tensors_in(content: bytes | memoryview) -> dict[str, Array]:
    """Name -> array that shares the memory of a safetensors file's bytes; ValueError when they are none."""
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(bytes(content[8 : 8 + size]))
        header.pop("__metadata__", None)
        return {
            name: np.frombuffer(content[8 + size + start : 8 + size + stop], _DTYPES[entry["dtype"]]).reshape(
                entry["shape"]
            )
            for name, entry in header.items()
            for start, stop in [entry["data_offsets"]]
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a safetensors file ({error})") from None


def read_ahead(path: Path) -> None:
    """Asks the system to begin reading a file that will be wanted soon; nothing happens where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError), path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


class Memory:
    """Room for a file's bytes that is used again for the next one; what it held before is gone then."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, path: Path) -> memoryview:
        """The whole file; OSError when it cannot be read."""
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            file.seek(0)
            if len(self._bytes) < size:
                self._bytes = bytearray(size)
            room, filled = memoryview(self._bytes)[:size], 0
            while filled < size and (count := file.readinto(room[filled:])):
                filled += count
        return room[:filled]
