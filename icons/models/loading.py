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
from icons.models.folders import model_folder
from icons.models.foreign import reading, require_own_code_only
from icons.models.formats import input_format, reads_images
from icons.models.place import pick_devices, take_device
from icons.models.probe import with_right_head
from icons.models.quantization import reading_settings, use_weights_alone
from icons.models.sharding import move_inputs, spread
from icons.models.vlm import VisionLanguageModel


def load_base(config: ModelConfig) -> VisionLanguageModel:
    """The model without an adapter, every parameter frozen, in eval mode, read straight to its device or devices."""
    pick_devices(config)
    folder, device = model_folder(config.base), take_device(config.device)
    inputs = input_format(folder, config)
    bare = meta_model(config)
    _require_enough_weights(folder, bare)
    places = spread(config, bare) if config.device_map else {"": device}
    settings = reading_settings(config, bare)
    with _quiet_transformers(), reading(f"model.base: the weights in {folder} cannot be loaded"):
        model, info = _auto_class(hugging_face_config(config)).from_pretrained(
            folder,
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
            trust_remote_code=config.trust_remote_code,
            device_map=places,
            **settings,
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"model.base: {folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}")
    model.requires_grad_(False).eval()
    if len(set(places.values())) > 1:
        move_inputs(model, places)
        device = model.get_input_embeddings().weight.device
    if settings:
        use_weights_alone(model)
    loaded = VisionLanguageModel(model, model, inputs, device)
    if not config.device_map:
        return with_right_head(loaded)
    with reading(f"model.device_map: auto: {type(model).__name__} cannot be computed on several GPUs"):
        return with_right_head(loaded)


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
