"""What turns records into a model's inputs, from the files beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icons.config import ModelConfig
from icons.data.samples import InputFormat
from icons.errors import UserError


def input_format(folder: Path, config: ModelConfig) -> InputFormat:
    """Tokenizer, image processor and image token numbers of a LLaVA folder; no weights are read."""
    from transformers import AutoConfig, AutoTokenizer

    model_config = AutoConfig.from_pretrained(folder)
    if model_config.model_type != "llava":
        raise UserError(f"model.base: {folder} is a {model_config.model_type} model; template vicuna_v1 needs llava")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"model.base: {folder} has no usable tokenizer ({str(error).splitlines()[0]})") from None
    if not tokenizer.is_fast or tokenizer.eos_token is None:
        raise UserError(f"model.base: {folder} needs a fast tokenizer with an end-of-sequence token")
    vision = model_config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    has_class_token = vision.model_type in {"clip_vision_model", "clip"}
    keeps_all = model_config.vision_feature_select_strategy == "full"
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return InputFormat(
        tokenizer=tokenizer,
        image_processor=_image_processor(folder, config.image_aspect_ratio == "pad"),
        image_token_id=model_config.image_token_id,
        num_image_tokens=patches + int(has_class_token and keeps_all),
        pad_token_id=pad,
        max_length=config.max_length,
    )


def _image_processor(folder: Path, pad: bool) -> Any:
    """LLaVA's image processor: pad to a square with the mean colour (CLIP's own centre-crops instead), or not.

    The folder's processor gives the sizes, mean and deviation; the PIL class needs no torchvision.
    """
    from transformers import LlavaImageProcessorPil

    settings: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            settings = content.get("image_processor", settings if name == "processor_config.json" else content)
    if not settings:
        raise UserError(f"model.base: {folder} has no preprocessor_config.json or processor_config.json")
    known = (
        "size", "crop_size", "resample", "image_mean", "image_std", "rescale_factor",
        "do_resize", "do_center_crop", "do_rescale", "do_normalize",
    )  # fmt: skip
    return LlavaImageProcessorPil(**{key: settings[key] for key in known if key in settings}, do_pad=pad)
