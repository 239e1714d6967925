"""What a gradient row was made of: the fingerprint that ties train, validation and influence together."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from icons.config import Config
from icons.errors import UserError
from icons.store.fingerprint import Fingerprint, file_digest, model_digest
from icons.store.layout import RunFolder


def feature_fingerprint(config: Config, checkpoint: int | str) -> Fingerprint:
    """Everything but the data that decides a gradient row; equal for all rows that may be compared.

    Raises UserError when the model folder or the adapter is missing, or when `gradients.dim` exceeds the number of
    LoRA parameters.
    """
    from icons.gradients.projection import make_projector
    from icons.models.loading import adapter_shapes, model_folder

    folder = RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter)
    if not folder.is_dir():
        steps = "" if checkpoint == "final" else f", and warmup.save_steps must divide {checkpoint}"
        raise UserError(f"no adapter {folder}; run `icons warmup` first or set model.adapter{steps}")
    shapes = adapter_shapes(folder)
    parameters = sum(prod(shape) for shape in shapes.values())
    if config.gradients.dim > parameters:
        raise UserError(
            f"gradients.dim {config.gradients.dim} exceeds the {parameters} parameters of the adapter {folder}"
        )
    gradients = config.gradients
    projector = make_projector(gradients.projection, gradients.dim, gradients.seed)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return {
        "base_model": model_digest(model_folder(config.model.base)),
        "adapter": file_digest(folder / "adapter_model.safetensors")[:16],
        "lora_r": settings.get("r"),
        "lora_alpha": settings.get("lora_alpha"),
        "dtype": config.model.dtype,
        "template": config.model.template,
        "image_aspect_ratio": config.model.image_aspect_ratio,
        "max_length": config.model.max_length,
        "gradient_type": gradients.type,
        "projection": gradients.projection,
        "dim": gradients.dim,
        "projection_seed": gradients.seed,
        "projection_version": projector.version,
    }


def with_data(features: Fingerprint, data: Path, num_rows: int) -> Fingerprint:
    """The features' fingerprint with the data file's own: its bytes and its number of records."""
    return {**features, "data": file_digest(data)[:16], "num_rows": num_rows}
