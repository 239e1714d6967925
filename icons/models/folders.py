"""Model folders and adapter folders, looked at from outside: what a fingerprint needs, without loading torch."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from icons.errors import UserError
from icons.models.foreign import reason, require_plain_folder
from icons.plain import in_line

PATTERNS = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]
"""The files of a Hub repository that are needed; weights in other formats are not."""


def model_folder(base: str) -> Path:
    """The local folder of `model.base`, downloaded from the Hub when it is an id; a UserError when it cannot be one."""
    folder = Path(base)
    if not folder.is_absolute():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(base, allow_patterns=PATTERNS))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"model.base: {base!r} is no folder here and not to be had from the Hub ({reason(error)})"
            ) from None
    if folder.is_dir():
        require_plain_folder(folder, "model.base")
    if not (folder / "config.json").is_file():
        raise UserError(f"model.base: {folder} has no config.json; expected a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model.base: {folder} has no weights (*.safetensors)")
    require_plain_weights(folder)
    return folder


def require_plain_weights(folder: Path) -> None:
    """Raises UserError for a folder whose weights are quantised already; what else is odd in it is not looked at."""
    try:
        settings: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        inner = settings.get("text_config") or {}
        quantised = settings.get("quantization_config") or inner.get("quantization_config")
    except (OSError, ValueError, RecursionError, AttributeError):
        return
    if quantised:
        how = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UserError(
            f"model.base: {folder} holds weights that are quantised already ({in_line(how or 'quantization_config')}), "
            "which are not read; name the model's folder of plain weights, and set model.quantization: 8bit or 4bit"
        )


def adapter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a PEFT adapter folder, from the file's header."""
    path = folder / "adapter_model.safetensors"
    if folder.is_dir():
        require_plain_folder(folder, "adapter")
    if (folder / "non_lora_trainables.bin").is_file():
        raise UserError(convert_first(folder))
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"adapter {folder} has no adapter_model.safetensors and adapter_config.json (PEFT format)")
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("adapter_config.json holds no object")
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"adapter {path} cannot be read ({reason(error)})") from None


def adapter_sizes(folder: Path) -> dict[str, int]:
    """Name -> numbers of each LoRA tensor in a PEFT folder; a projector trained beside them is none of them."""
    return {name: prod(shape) for name, shape in adapter_shapes(folder).items() if ".lora_" in name}


def convert_first(folder: Path) -> str:
    """What to do with an adapter of LLaVA's own code."""
    return (
        f"adapter {folder} was trained by the original LLaVA code and does not fit a Hugging Face model as it is; "
        f"convert it: icons import-adapter {folder} OUT"
    )
