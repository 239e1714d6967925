"""Tensors as others publish them: safetensors or PyTorch's own format, in one file or in several with an index.

Nothing is unpickled beyond tensors (`weights_only`), and files are mapped into memory, not read, where they can be.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from icons.errors import UserError
from icons.models.foreign import reading, reason
from icons.plain import in_line

STEMS = ("model.safetensors", "pytorch_model.bin")


def read_model_folder(folder: Path, what: str) -> dict[str, Tensor]:
    """All tensors of a Hugging Face model folder, in the dtypes of its files.

    Raises UserError, beginning with `what` the folder is, when it has no weights or they cannot be read.
    """
    for stem in STEMS:
        index = folder / f"{stem}.index.json"
        if (folder / stem).is_file():
            return read_tensors(folder / stem)
        if index.is_file():
            try:
                files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
                raise UserError(f"{what}: {index} is not the index of a model's weights ({reason(error)})") from None
            return {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}
    raise UserError(f"{what}: {folder} has no weights ({' or '.join(STEMS)}, or their index)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; a UserError when it is missing, damaged, or holds anything else."""
    if not path.is_file():
        raise UserError(f"{path} is not there")
    with reading(f"{path} cannot be read as tensors"):
        tensors = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise UserError(f"{path} does not hold tensors by name")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise UserError(f"{path}: {in_line(name)} is a sparse or quantised tensor; expected plain ones")
    return tensors


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        mapped: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError):  # the format before 2020 cannot be mapped
        mapped = torch.load(path, map_location="cpu", weights_only=True)
    return mapped
