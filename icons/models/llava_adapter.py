"""An adapter trained by the original LLaVA code, as a PEFT adapter of the Hugging Face model.

LLaVA wraps its language model itself, so its LoRA tensors are named `base_model.model.model.layers...`, where Hugging
Face has `base_model.model.model.language_model.layers...`; the projector that it trains beside them lies in
`non_lora_trainables.bin` as `mm_projector.0` and `mm_projector.2`, Hugging Face's `linear_1` and `linear_2`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from icons.atomic import write_bytes
from icons.errors import UserError
from icons.models.foreign import reason
from icons.models.published import read_tensors

LORA = re.compile(r"base_model\.model\.model\.(?:language_model\.)?(layers\..+)\.lora_([AB])(?:\.default)?\.weight")
PROJECTOR = re.compile(r"(?:base_model\.model\.)?(?:model\.)?mm_projector\.(0|2)\.(weight|bias)")
LINEAR = {"0": "linear_1", "2": "linear_2"}
KEPT = ("r", "lora_alpha", "lora_dropout", "use_rslora")
REFUSED = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern")


def import_llava_adapter(source: Path, out: Path) -> int:
    """Fills the folder `out` from LLaVA's folder `source` and returns the number of tensors.

    Raises UserError for files that are missing, LoRA options that change the arithmetic, and any tensor that is neither
    the language model's LoRA nor the projector.
    """
    settings = _settings(source)
    tensors, layers = _lora(source, settings["r"])
    projector = _projector(source)
    written = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        **{key: settings[key] for key in KEPT if key in settings},
        "target_modules": sorted(layers),
        "modules_to_save": ["model.multi_modal_projector"] if projector else None,
    }
    write_bytes(out / "adapter_model.safetensors", save(tensors | projector, metadata={"format": "pt"}))
    write_bytes(out / "adapter_config.json", json.dumps(written, indent=2).encode())
    return len(tensors) + len(projector)


def _settings(source: Path) -> dict[str, Any]:
    path = source / "adapter_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or reason(error)})") from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise UserError(f"{path} is not of a LoRA adapter")
    for key in REFUSED:
        if settings.get(key):
            raise UserError(f"{path}: {key} is set; only plain LoRA can be taken over")
    if settings.get("bias", "none") != "none":
        raise UserError(f"{path}: bias is {settings['bias']!r}; only LoRA without biases can be taken over")
    if not isinstance(settings.get("r"), int):
        raise UserError(f"{path}: r, the rank, is {settings.get('r')!r}; expected a number")
    return settings


def _lora(source: Path, rank: int) -> tuple[dict[str, Tensor], set[str]]:
    """The LoRA tensors under Hugging Face's names, and the full names of the layers they belong to."""
    files = [source / name for name in ("adapter_model.safetensors", "adapter_model.bin")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise UserError(f"{source} has no adapter_model.bin and no adapter_model.safetensors")
    tensors: dict[str, Tensor] = {}
    layers: set[str] = set()
    for name, tensor in read_tensors(path).items():
        match = LORA.fullmatch(name)
        if match is None:
            raise UserError(f"{path}: {name} is no LoRA tensor of LLaVA's language model")
        if tensor.dim() != 2 or tensor.shape["AB".index(match[2])] != rank:
            raise UserError(
                f"{path}: {name} is {tuple(tensor.shape)}, which is not of rank {rank} (adapter_config.json)"
            )
        layer = f"model.language_model.{match[1]}"
        tensors[f"base_model.model.{layer}.lora_{match[2]}.weight"] = tensor.contiguous().clone()
        layers.add(layer)
    if len(tensors) != 2 * len(layers) or not layers:
        raise UserError(f"{path}: {len(tensors)} tensors for {len(layers)} layers; expected lora_A and lora_B of each")
    return tensors, layers


def _projector(source: Path) -> dict[str, Tensor]:
    path = source / "non_lora_trainables.bin"
    if not path.is_file():
        return {}
    projector: dict[str, Tensor] = {}
    for name, tensor in read_tensors(path).items():
        match = PROJECTOR.fullmatch(name)
        if match is None:
            raise UserError(f"{path}: {name} is not of a two-layer projector (mlp2x_gelu), which is all that is taken")
        target = f"base_model.model.model.multi_modal_projector.{LINEAR[match[1]]}.{match[2]}"
        projector[target] = tensor.contiguous().clone()
    if len(projector) != 4:
        raise UserError(f"{path} holds {len(projector)} projector tensors; expected weight and bias of two layers")
    return projector
