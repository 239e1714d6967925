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
