"""An adapter folded into its base model: a plain Hugging Face folder, which needs no PEFT."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from icons.config import ModelConfig
from icons.data.vicuna import CHAT_TEMPLATE
from icons.models.card import write_card
from icons.models.folders import model_folder
from icons.models.loading import load_base

TEXT = "A model with the adapter of an instruction tuning folded into its weights."
OWN_FILES = {"config.json", "generation_config.json"}  # save_pretrained writes them with the weights
COPIED = {".json", ".jinja", ".model", ".txt"}


def write_merged(config: ModelConfig, adapter: Path, target: Path) -> None:
    """Writes the base model's weights plus the LoRA, and the trained projector if any, in the base's dtype.

    With `model.quantization` too the weights are the plain ones of the folder, which the LoRA was not trained beside.

    Tokenizer and processor files are the base folder's own; the chat template is Vicuna's where the model was trained
    with that one, whatever the base folder had.
    """
    from peft import PeftModel

    base = load_base(config.model_copy(update={"quantization": None, "device_map": None})).base
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    model.to(base.dtype).save_pretrained(target)
    for path in model_folder(config.base).iterdir():
        if path.suffix in COPIED and path.name not in OWN_FILES and not path.name.endswith(".index.json"):
            shutil.copy(path, target / path.name)
    if config.template == "vicuna_v1":
        for path in (target / "chat_template.json", target / "chat_template.jinja"):
            path.unlink(missing_ok=True)
        (target / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        write_card(target, how="`icons finetune --merge`", text=TEXT)
    # safetensors creates its files for the owner alone; give them the mode of their neighbours
    for path in target.glob("*.safetensors"):
        path.chmod((target / "config.json").stat().st_mode)
