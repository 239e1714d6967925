"""Tensors as others publish them: safetensors or PyTorch's own format, in one file or in several with an index.

Nothing is unpickled beyond tensors (`weights_only`), and files are mapped into memory, not read, where they can be.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from icons.errors import UserError

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
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise UserError(f"{what}: {index} cannot be read ({error})") from None
            return {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}
    raise UserError(f"{what}: {folder} has no weights ({' or '.join(STEMS)}, or their index)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; a UserError when it is missing, damaged, or holds anything else."""
    if not path.is_file():
        raise UserError(f"{path} is not there")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _load_pickle(path)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as tensors ({str(error).strip().splitlines()[0]})") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path} does not hold tensors by name")
    return tensors


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        mapped: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError):  # the format before 2020 cannot be mapped
        mapped = torch.load(path, map_location="cpu", weights_only=True)
    return mapped
