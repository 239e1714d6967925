"""The model before instruction tuning, put together from its published parts: LLM, vision tower, projector.

Source: LLaVA-1.5 (arXiv 2310.03744): Vicuna, CLIP's vision tower read at the layer before the last without its class
token, and a projector of two linear layers with GELU between, pretrained alone (`mm_projector.bin`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from icons.errors import UserError
from icons.models.card import complete
from icons.models.foreign import reading, reason, require_plain_folder
from icons.models.llava_adapter import LINEAR, PROJECTOR
from icons.models.published import read_model_folder, read_tensors
from icons.models.sentencepiece import write_tokenizer_json

IMAGE_TOKEN = "<image>"
TEXT = "LLaVA before instruction tuning: language model, vision tower and pretrained projector as they were published."
ROWS = 64
"""The vocabulary is filled up to a multiple of this, which matrix products on GPUs like."""


def assemble_llava(llm: Path, vision: Path, projector: Path, out: Path) -> None:
    """Fills the folder `out` with a Hugging Face LLaVA, weights in the dtypes of the parts.

    The rows that the vocabulary gains, the image token's among them, are the mean of the others. Raises UserError for a
    part of another kind and parts whose widths do not fit.
    """
    text_config, vision_config = _llm_config(llm), _vision_config(vision)
    tokenizer = _tokenizer(llm)
    text = _text_tensors(llm, len(tokenizer))
    config = _config(text_config, vision_config, tokenizer, text["model.language_model.embed_tokens.weight"])
    tensors = text | _vision_tensors(vision) | _projector_tensors(projector)
    model = _filled(config, tensors)
    _save(model, out)
    how = "`icons assemble`, of a Llama, CLIP's vision tower and a pretrained projector"
    complete(out, _processor(vision, config, tokenizer), how=how, text=TEXT)


def _llm_config(folder: Path) -> Any:
    config = _auto_config(folder, "--llm")
    if config.model_type != "llama":
        raise UserError(f"--llm: {folder} is a {config.model_type} model; expected llama, such as Vicuna-7B-v1.5")
    return config


def _vision_config(folder: Path) -> Any:
    config = _auto_config(folder, "--vision")
    if config.model_type == "clip":
        config = config.vision_config
    if config.model_type != "clip_vision_model":
        raise UserError(f"--vision: {folder} is a {config.model_type} model; expected CLIP, such as ViT-L/14-336")
    return config


def _auto_config(folder: Path, option: str) -> Any:
    from transformers import AutoConfig

    if folder.is_dir():
        require_plain_folder(folder, option)
    if not (folder / "config.json").is_file():
        raise UserError(f"{option}: {folder} has no config.json; expected a Hugging Face model folder")
    with reading(f"{option}: {folder}/config.json is not understood"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _tokenizer(folder: Path) -> Any:
    """The LLM's tokenizer with the image token added; padding is its unknown token where it has none, as in LLaVA."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"--llm: {folder} has no tokenizer.json and no tokenizer.model")
    with TemporaryDirectory() as readable:
        tokenizer = _read_tokenizer(_with_tokenizer_json(folder, Path(readable)), folder)
    if not tokenizer.is_fast or tokenizer.eos_token is None:
        raise UserError(f"--llm: {folder} needs a fast tokenizer with an end-of-sequence token")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def _with_tokenizer_json(folder: Path, readable: Path) -> Path:
    """`folder`, or where it has tokenizer.model alone, `readable` with that as tokenizer.json and the settings."""
    if (folder / "tokenizer.json").is_file():
        return folder
    if (folder / "added_tokens.json").is_file():
        raise UserError(f"--llm: {folder} adds tokens to tokenizer.model (added_tokens.json); tokenizer.json is needed")
    for name in ("config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, readable / name)
    path = folder / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--llm: {path} cannot be read ({reason(error)})") from None
    settings.setdefault("legacy", True)  # what a folder that does not say was published for
    (readable / path.name).write_text(json.dumps(settings), encoding="utf-8")
    write_tokenizer_json(folder / "tokenizer.model", settings, readable / "tokenizer.json")
    return readable


def _read_tokenizer(readable: Path, folder: Path) -> Any:
    from transformers import AutoTokenizer

    with reading(f"--llm: {folder} has no usable tokenizer"):
        return AutoTokenizer.from_pretrained(readable, trust_remote_code=False)


def _config(text: Any, vision: Any, tokenizer: Any, embeddings_VH: Tensor) -> Any:
    from transformers import LlavaConfig

    text.vocab_size = embeddings_VH.shape[0]
    text.pad_token_id = tokenizer.pad_token_id
    for part in (text, vision):
        part._name_or_path = ""  # else the folder on this machine is published with the model
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        dtype=embeddings_VH.dtype,
    )


def _text_tensors(folder: Path, vocabulary: int) -> dict[str, Tensor]:
    """Llama's tensors under LLaVA's names, embeddings and head grown to the vocabulary filled up to ROWS."""
    read = read_model_folder(folder, "--llm")
    tensors = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in read.items()
        if not name.endswith("rotary_emb.inv_freq")
    }
    if "model.language_model.embed_tokens.weight" not in tensors:
        raise UserError(f"--llm: {folder} has no model.embed_tokens.weight")
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            rows = max(vocabulary, tensors[name].shape[0])
            tensors[name] = _grown(tensors[name], -(-rows // ROWS) * ROWS)
    return tensors


def _grown(matrix_VH: Tensor, rows: int) -> Tensor:
    mean_1H = matrix_VH.float().mean(0, keepdim=True).to(matrix_VH.dtype)
    return torch.cat([matrix_VH, mean_1H.expand(rows - matrix_VH.shape[0], -1)])


def _vision_tensors(folder: Path) -> dict[str, Tensor]:
    read = read_model_folder(folder, "--vision")
    inside = "vision_model."
    tensors = {f"model.vision_tower.{n.removeprefix(inside)}": t for n, t in read.items() if n.startswith(inside)}
    if not tensors:
        raise UserError(f"--vision: {folder} has no tensors under {inside}")
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}


def _projector_tensors(path: Path) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in read_tensors(path).items():
        match = PROJECTOR.fullmatch(name)
        if match is None:
            raise UserError(f"--projector: {path}: {name} is not of a two-layer projector (mlp2x_gelu)")
        tensors[f"model.multi_modal_projector.{LINEAR[match[1]]}.{match[2]}"] = tensor
    return tensors


def _filled(config: Any, tensors: dict[str, Tensor]) -> Any:
    """The model around the tensors themselves, nothing copied; a UserError naming the first that does not fit."""
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
        tensors.pop("lm_head.weight", None)
    inside = next(name for name in shapes if "vision_tower" in name and "class_embedding" in name)
    prefix = inside.partition("embeddings.")[0]
    tensors = {name.replace("model.vision_tower.", prefix, 1): tensor for name, tensor in tensors.items()}
    for name, shape in shapes.items():
        if name not in tensors:
            raise UserError(f"the parts lack {name}")
        if tuple(tensors[name].shape) != shape:
            raise UserError(f"the parts do not fit: {name} is {tuple(tensors[name].shape)}, expected {shape}")
    strangers = sorted(tensors.keys() - shapes.keys())
    if strangers:
        raise UserError(f"the parts hold {len(strangers)} tensors that LLaVA has not, the first is {strangers[0]}")
    model.load_state_dict(tensors, assign=True, strict=not config.tie_word_embeddings)
    if config.tie_word_embeddings:
        model.tie_weights()
    return model


def _save(model: Any, folder: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.save_pretrained(folder, max_shard_size="5GB")
    # safetensors creates its files for the owner alone; give them the mode of their neighbours
    for path in folder.glob("*.safetensors"):
        path.chmod((folder / "config.json").stat().st_mode)


def _processor(vision: Path, config: Any, tokenizer: Any) -> Any:
    from transformers import LlavaImageProcessorPil, LlavaProcessor
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    with reading(f"--vision: {vision} has no usable image processor"):
        clip = AutoImageProcessor.from_pretrained(vision, backend="pil")
    images = LlavaImageProcessorPil(
        do_pad=True,
        size=dict(clip.size),
        crop_size=dict(clip.crop_size),
        image_mean=clip.image_mean,
        image_std=clip.image_std,
        resample=clip.resample,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
    )
