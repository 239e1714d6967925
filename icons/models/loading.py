"""A model folder and an adapter folder made into a frozen VisionLanguageModel, every mismatch refused.

Source of the numbers: LLaVA-1.5 (image padded to a square, feature layer -2, class token dropped).
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from icons.config import LoraConfig, ModelConfig
from icons.data.samples import InputFormat
from icons.errors import UserError
from icons.models.vlm import VisionLanguageModel


def model_folder(base: str) -> Path:
    """The local folder of `model.base`, downloaded from the Hub when it is an id; a UserError when it cannot be one."""
    folder = Path(base)
    if not folder.is_absolute():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(base, allow_patterns=["*.json", "*.safetensors", "tokenizer.model"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"model.base: {base!r} is no folder here and not to be had from the Hub ({first})"
            ) from None
    if not (folder / "config.json").is_file():
        raise UserError(f"model.base: {folder} has no config.json; expected a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model.base: {folder} has no weights (*.safetensors)")
    return folder


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU without one; a UserError when a GPU is asked for and there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"model.device: {name} asked for, but torch sees no GPU; use auto or cpu")
    return torch.device(name)


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


def load_base(config: ModelConfig) -> VisionLanguageModel:
    """The model without an adapter, every parameter frozen, in eval mode, on its device."""
    from transformers import LlavaForConditionalGeneration

    folder, device = model_folder(config.base), pick_device(config.device)
    inputs = input_format(folder, config)
    with _quiet_transformers():
        try:
            model, info = LlavaForConditionalGeneration.from_pretrained(
                folder, dtype=getattr(torch, config.dtype), output_loading_info=True
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(
                f"model.base: the weights in {folder} cannot be loaded ({str(error).splitlines()[0]})"
            ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(f"model.base: {folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}")
    model.requires_grad_(False).eval().to(device)
    return VisionLanguageModel(model, model, inputs, device)


def attach_fresh_lora(model: VisionLanguageModel, config: LoraConfig) -> VisionLanguageModel:
    """A new, trainable LoRA on `target_modules`, by default every linear layer of the language model."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    targets = list(_lora_targets(model.base, config))
    # Full names: a suffix such as q_proj would match the vision tower too.
    settings = PeftLoraConfig(r=config.r, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        peft = get_peft_model(model.base, settings)
    return VisionLanguageModel(peft, model.base, model.inputs, model.device)


def lora_parameters(folder: Path, config: LoraConfig) -> int:
    """How many parameters `attach_fresh_lora` would add, from the model's config alone; no weights are read."""
    layers = _lora_targets(_meta_model(folder), config).values()
    return sum(config.r * (layer.in_features + layer.out_features) for layer in layers)


def linear_layers(folder: Path) -> list[str]:
    """Names of the linear layers of the language model, from the model's config alone."""
    return list(_lora_targets(_meta_model(folder), LoraConfig()))


def _meta_model(folder: Path) -> nn.Module:
    from transformers import AutoConfig, LlavaForConditionalGeneration

    with torch.device("meta"):
        model: nn.Module = LlavaForConditionalGeneration(AutoConfig.from_pretrained(folder))
    return model


def _lora_targets(base: nn.Module, config: LoraConfig) -> dict[str, nn.Linear]:
    """The linear layers of the language model that `target_modules` names, or all of them; a UserError when none."""
    linear = {n: module for n, module in base.named_modules() if isinstance(module, nn.Linear) and _is_text(n)}
    wanted = config.target_modules
    if wanted is not None:
        linear = {n: module for n, module in linear.items() if any(n == w or n.endswith(f".{w}") for w in wanted)}
    if not linear:
        raise UserError(f"model.lora.target_modules: {wanted} match no linear layer of the language model")
    return linear


def attach_adapter(model: VisionLanguageModel, folder: Path) -> VisionLanguageModel:
    """The adapter of a PEFT folder, frozen; a UserError when its tensors are not exactly those of the model."""
    from peft import PeftModel

    stored = adapter_shapes(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that do not fit: checked below, and an error
        try:
            peft = PeftModel.from_pretrained(model.base, folder, is_trainable=False)
        except (ValueError, RuntimeError, KeyError) as error:
            raise UserError(f"adapter {folder} does not fit the model ({str(error).splitlines()[0]})") from None
    loaded = VisionLanguageModel(peft.requires_grad_(False).eval(), model.base, model.inputs, model.device)
    pairs = _pairs_or_refuse(loaded, folder)
    outside = [pair.name for pair in pairs if not _is_text(pair.name)]
    if outside:
        raise UserError(
            f"adapter {folder} has {len(outside)} LoRA layers outside the language model (the first is {outside[0]}); "
            "gradients are taken of the language model's alone"
        )
    expected = {name: tuple(parameter.shape) for pair in pairs for name, parameter in pair.tensors}
    strangers, absent = sorted(stored.keys() - expected.keys()), sorted(expected.keys() - stored.keys())
    if strangers or absent:
        example = f"unknown to the model: {strangers[0]}" if strangers else f"not in the adapter: {absent[0]}"
        count = len(strangers) + len(absent)
        raise UserError(f"adapter {folder} does not fit the model: {count} tensor names differ ({example})")
    for name, shape in stored.items():
        if shape != expected[name]:
            raise UserError(f"adapter {folder} does not fit the model: {name} is {shape}, expected {expected[name]}")
    return loaded


def adapter_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a PEFT adapter folder, from the file's header."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"adapter {folder} has no adapter_model.safetensors and adapter_config.json (PEFT format)")
    try:
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"adapter {path} cannot be read ({error})") from None


def adam_moments(
    model: VisionLanguageModel, folder: Path
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], float, float, float]:
    """LoRA tensor name -> Adam's first and second moments, [numel] float32 on the model's device; beta1, beta2, eps.

    From the optimizer.pt that the Hugging Face Trainer left beside the adapter: its parameters are numbered in the
    order of the model's own. Raises UserError when they are not those of the adapter.
    """
    path = folder / "optimizer.pt"
    try:
        found = torch.load(path, map_location=model.device, weights_only=True)
        numbers = [number for group in found["param_groups"] for number in group["params"]]
        states = [found["state"][number] for number in numbers]
        (beta1, beta2), eps = found["param_groups"][0]["betas"], found["param_groups"][0]["eps"]
    except (OSError, KeyError, IndexError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as an optimizer's state ({str(error).splitlines()[0]})") from None
    named = {name.replace(".default", ""): p for name, p in model.peft.named_parameters() if "lora_" in name}
    shapes = [tuple(parameter.shape) for parameter in named.values()]
    if [tuple(state["exp_avg"].shape) for state in states] != shapes:
        raise UserError(
            f"{path} is not of this adapter: {len(states)} parameters, expected {len(shapes)} of its shapes"
        )
    moments = {
        name: (state["exp_avg"].flatten().float(), state["exp_avg_sq"].flatten().float())
        for name, state in zip(named, states, strict=True)
    }
    return moments, beta1, beta2, eps


def _pairs_or_refuse(model: VisionLanguageModel, folder: Path) -> list[Any]:
    try:
        return model.lora_pairs()
    except ValueError as error:
        raise UserError(f"adapter {folder} is not supported: {error}") from None


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


def _is_text(name: str) -> bool:
    return ".language_model." in f".{name}." and "lm_head" not in name


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
