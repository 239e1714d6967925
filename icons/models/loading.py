"""A model folder made into a frozen VisionLanguageModel, everything missing refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from icons.config import ModelConfig
from icons.errors import UserError
from icons.models.foreign import reading, reason, require_own_code_only, require_plain_folder
from icons.models.formats import input_format, reads_images
from icons.models.place import take_device
from icons.models.probe import with_right_head
from icons.models.vlm import VisionLanguageModel

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
    return folder


def load_base(config: ModelConfig) -> VisionLanguageModel:
    """The model without an adapter, every parameter frozen, in eval mode, read straight to its device."""
    folder, device = model_folder(config.base), take_device(config.device)
    inputs = input_format(folder, config)
    _require_enough_weights(folder, meta_model(config))
    with _quiet_transformers(), reading(f"model.base: the weights in {folder} cannot be loaded"):
        model, info = _auto_class(hugging_face_config(config)).from_pretrained(
            folder,
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
            trust_remote_code=config.trust_remote_code,
            device_map={"": device},
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"model.base: {folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}")
    model.requires_grad_(False).eval()
    return with_right_head(VisionLanguageModel(model, model, inputs, device))


def _require_enough_weights(folder: Path, model: nn.Module) -> None:
    """Raises UserError when the files hold far fewer numbers than the model that config.json describes.

    Known from their headers: the library would fill the rest with random numbers, in as much memory as it takes.
    """
    described, stored = sum(parameter.numel() for parameter in model.parameters()), 0
    for path in folder.glob("*.safetensors"):
        with reading(f"model.base: {path} cannot be loaded"), safe_open(path, framework="np") as file:
            stored += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if described > 1.02 * stored:
        raise UserError(
            f"model.base: {folder}/config.json describes a model of {described:,} parameters, and its weights hold "
            f"{stored:,}; they do not belong together"
        )


def meta_model(config: ModelConfig) -> nn.Module:
    """The model without weights, from its config alone."""
    settings = hugging_face_config(config)
    with reading(f"model.base: no model can be made of {config.base}/config.json"), torch.device("meta"):
        model: nn.Module = _auto_class(settings).from_config(settings, trust_remote_code=config.trust_remote_code)
    return model


def hugging_face_config(config: ModelConfig) -> Any:
    """The model folder's config.json as transformers reads it; a UserError when it cannot."""
    from transformers import AutoConfig

    folder = model_folder(config.base)
    if not config.trust_remote_code:
        require_own_code_only(folder)
    with reading(f"model.base: {folder}/config.json is not understood"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)


def _auto_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its report of keys that do not fit (ours is an error that names them), and from here on its bars."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
