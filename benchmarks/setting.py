"""What the benchmarks run on: a model with a LoRA adapter, encoded samples, and the words that describe a machine."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import Any

import torch

from icons import __version__
from icons.config import LoraConfig, ModelConfig
from icons.data.batches import Batch, make_batch
from icons.data.formats import LlavaFormat
from icons.data.samples import DataSource, Sample
from icons.data.sets import open_records
from icons.data.tokens import IGNORE, Tokens
from icons.demo.drawing import VqaSet
from icons.demo.start import train_start
from icons.models.adapters import attach_fresh_lora
from icons.models.loading import load_base
from icons.models.tiny import TINY, TinySize, build_tiny_llava
from icons.models.vlm import VisionLanguageModel

Collate = Callable[[list[Sample]], Batch]


@dataclass(frozen=True)
class Setting:
    """A frozen model with LoRA, its samples, and what makes a batch of them, images decoded."""

    model: VisionLanguageModel
    samples: list[Sample]
    collate: Collate


TINY_RANK = 16


def tiny_model(folder: Path, size: TinySize, r: int) -> VisionLanguageModel:
    """A tiny LLaVA with random weights and a LoRA with B not zero, float32 on the CPU.

    Written to `folder`/model and `folder`/adapter.
    """
    build_tiny_llava(folder / "model", size=size)
    config = ModelConfig(base=str(folder / "model"), dtype="float32", device="cpu")
    model = _with_lora(load_base(config), LoraConfig(r=r, alpha=2 * r, dropout=0), b_std=0.02)
    model.peft.save_pretrained(folder / "adapter")
    return model


def taught_model(folder: Path, r: int, size: TinySize = TINY, seed: int = 0) -> VisionLanguageModel:
    """The demo's model, taught a little, with a LoRA that has learned nothing yet; float32 on the CPU."""
    train_start(folder, size=size, seed=seed)
    config = ModelConfig(base=str((folder / "model").absolute()), dtype="float32", device="cpu")
    return _with_lora(load_base(config), LoraConfig(r=r, alpha=2 * r, dropout=0), b_std=0.0)


def drawn_source(model: VisionLanguageModel, drawn: VqaSet, path: Path | None = None) -> DataSource:
    """The training file of a drawn set, or another file of it."""
    return DataSource(open_records(path or drawn.train, drawn.images), model.inputs)


def encoded(source: DataSource) -> list[Sample]:
    samples, bad = source.samples(range(len(source.records)))
    assert not bad, bad[0].reason
    return samples


def decoded(source: DataSource, samples: list[Sample]) -> Batch:
    batch, bad = make_batch(samples, source.inputs)
    assert batch is not None, "no sample of the batch can be used"
    assert not bad, bad[0].reason
    return batch


def llava_7b(device: torch.device, count: int) -> Setting:
    """LLaVA-1.5-7B (Vicuna-7B, CLIP ViT-L/14 at 336 pixels) with random bfloat16 weights, LoRA r 128, alpha 256.

    Samples have 576 image tokens and 80 to 160 text tokens, the last third of these being the answer.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    text = LlamaConfig(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, projection_dim=768, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14,
    )  # fmt: skip
    return synthetic(LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000), device, count, 128)


def synthetic(config: Any, device: torch.device, count: int, r: int) -> Setting:
    """Any LLaVA from its config, on `device`, with made-up samples: nothing is read and nothing downloaded."""
    from transformers import LlavaForConditionalGeneration

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    try:
        with device:
            base = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    vision, image = config.vision_config, config.image_token_id
    patches = (vision.image_size // vision.patch_size) ** 2
    inputs = LlavaFormat(None, None, image, patches, pad_token_id=0, max_length=2048)
    base.requires_grad_(False).eval()
    lora = LoraConfig(r=r, alpha=2 * r, dropout=0)
    model = _with_lora(VisionLanguageModel(base, base, inputs, device), lora, b_std=0.005)
    rng = Random(0)
    samples = [_made_up(row, rng, image, patches, config.text_config.vocab_size) for row in range(count)]

    def collate(chosen: list[Sample]) -> Batch:
        length = max(sample.length for sample in chosen)
        ids, labels = torch.zeros(len(chosen), length, dtype=torch.long), torch.full((len(chosen), length), IGNORE)
        for index, sample in enumerate(chosen):
            ids[index, : sample.length] = torch.tensor(sample.tokens.ids[:-1])
            labels[index, : sample.length] = torch.tensor(sample.tokens.labels[1:])
        size = vision.image_size
        return Batch(
            rows=[sample.row for sample in chosen],
            lengths=[sample.length for sample in chosen],
            input_ids=ids,
            labels=labels,
            images=[{"pixel_values": torch.randn(1, 3, size, size)} for _ in chosen],
            image_index=[(index,) for index in range(len(chosen))],
        )

    return Setting(model, samples, collate)


def _made_up(row: int, rng: Random, image: int, patches: int, vocab: int) -> Sample:
    text = [rng.randrange(5, vocab - 64) for _ in range(rng.randint(80, 160))]
    ids = [1, *[image] * patches, *text]
    labels = [*[IGNORE] * (len(ids) - len(text) // 3), *text[-(len(text) // 3) :]]
    tokens = Tokens(ids, labels)
    return Sample(row=row, where=f"row {row}", tokens=tokens, images=(Path(f"{row}.png"),), length=len(ids) - 1)


def _with_lora(model: VisionLanguageModel, config: LoraConfig, b_std: float) -> VisionLanguageModel:
    """In the base model's dtype, as it is trained; a fresh B is zero, and so every gradient of A would be."""
    with model.device:
        model = attach_fresh_lora(model, config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.peft.named_parameters():
        if "lora_B" in name and not parameter.is_meta:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * b_std)
        if "lora_" in name:
            parameter.data = parameter.data.to(model.base.dtype)
    model.peft.requires_grad_(False).eval()
    return model


def on_device(batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
    images = [{name: tensor.to(device, dtype) for name, tensor in image.items()} for image in batch.images]
    return replace(batch, input_ids=batch.input_ids.to(device), images=images)


def circumstances(device: torch.device) -> dict[str, Any]:
    """Command, date, hardware and versions; of a path from the root the command keeps the last name alone."""
    hardware = {"cpu": _cpu_name(), "cores": len(_affinity()), "torch_threads": torch.get_num_threads()}
    hardware["load_average"] = round(os.getloadavg()[0], 2)
    if device.type == "cuda":
        hardware |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    own = {"python": platform.python_version(), "icons": __version__}
    packages = ("torch", "transformers", "peft")
    return {
        "command": shlex.join(["python", *(Path(word).name if word.startswith("/") else word for word in sys.argv)]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "hardware": hardware,
        "versions": own | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def describe(facts: dict[str, Any]) -> str:
    """`circumstances` as lines to print."""
    hardware = ", ".join(f"{name} {value}" for name, value in facts["hardware"].items())
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    return f"$ {facts['command']}\n{facts['date']}; {hardware}\n{versions}"


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
