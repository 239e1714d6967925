"""JSON and safetensors files, written whole or not at all; reading back names what is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from icons.atomic import write_bytes as write_bytes
from icons.atomic import write_parts as write_parts
from icons.errors import UserError

Array = npt.NDArray[Any]


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """A UserError when the file is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the command that writes it again") from None


SEAL = "sha256"
"""Key of a sealed JSON file: the SHA-256 of all its other keys."""


def seal(content: Mapping[str, Any]) -> str:
    """Hex SHA-256 of an object as JSON, whatever its layout in a file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON object that says when a byte of it is no longer what it was."""
    write_json(path, {**content, SEAL: seal(content)})


def read_sealed(path: Path, advice: str) -> dict[str, Any]:
    """What `write_sealed` wrote, without the seal; a UserError, ending with `advice`, when it is missing or damaged."""
    try:
        content: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {advice}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); {advice}") from None
    if not isinstance(content, dict) or content.pop(SEAL, None) != seal(content):
        raise UserError(f"{path} is damaged or was written by another version (its SHA-256 does not fit); {advice}")
    return content


def write_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str] | None = None) -> bytes:
    """Writes a safetensors file; returns its bytes."""
    # safetensors writes the buffer as it lies: a non-contiguous array would come back scrambled.
    content: bytes = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    if metadata:
        content = _with_metadata(content, metadata)
    write_bytes(path, content)
    return content


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """The file with its metadata in the order of their names: the library's own order changes from run to run."""
    size = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + size])}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, content[8 + size :]])


def read_tensors(path: Path, names: list[str] | None = None) -> dict[str, Array]:
    """Tensors of a safetensors file (all, or those named); a UserError when it is missing, damaged or lacks one."""
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error})") from None
