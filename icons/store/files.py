"""Files that are either whole or not there: written beside their place, flushed, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from icons.errors import UserError

Array = npt.NDArray[Any]


def write_bytes(path: Path, *parts: bytes) -> None:
    """Replaces `path` by the joined parts in one step."""
    write_parts(path, parts)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Replaces `path` in one step; after a crash it holds the old content or the new, never a piece.

    The file gets the user's umask. A killed process leaves a `.*.tmp` beside `path`, which nothing reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say where
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """A UserError when the file is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the command that writes it again") from None


def write_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str] | None = None) -> dict[str, Any]:
    """Writes a safetensors file; returns its `bytes` and `sha256`."""
    # safetensors writes the buffer as it lies: a non-contiguous array would come back scrambled.
    content = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata)
    write_bytes(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_tensors(path: Path, names: list[str] | None = None) -> dict[str, Array]:
    """Tensors of a safetensors file (all, or those named); a UserError when it is missing, damaged or lacks one."""
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error})") from None
