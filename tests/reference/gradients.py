"""One sample at a time, plain autograd: the oracle for the per-sample gradients."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from icons.config import LoraConfig, ModelConfig
from icons.data.batches import Batch, make_batch, stack_images
from icons.data.samples import DataSource, Sample
from icons.models.adapters import attach_fresh_lora
from icons.models.loading import load_base
from icons.models.vlm import VisionLanguageModel


def random_lora_model(folder: Path) -> VisionLanguageModel:
    """A model folder's model, frozen, float32 on the CPU, with a LoRA (r 4) in which nothing is zero."""
    config = ModelConfig(base=str(folder), dtype="float32", device="cpu", lora=LoraConfig(r=4, alpha=8))
    model = attach_fresh_lora(load_base(config), config.lora)
    model.peft.requires_grad_(False).eval()
    randomise_lora(model.peft)
    return model


def sequential_gradients(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> tuple[list[dict[str, Tensor]], list[float]]:
    """Gradient of each sample's loss by Hugging Face's own forward pass (with labels), batch size 1, no padding."""
    parameters = {
        name.replace(".default", ""): parameter for name, parameter in model.peft.named_parameters() if "lora_" in name
    }
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    gradients, losses = [], []
    for sample in samples:
        batch, bad = make_batch([sample], source.inputs)
        assert isinstance(batch, Batch)
        assert not bad
        loss = model.base(
            input_ids=torch.tensor([sample.tokens.ids]),
            attention_mask=torch.ones(1, len(sample.tokens.ids), dtype=torch.long),
            **stack_images(batch.shown_images),
            **flags(model, sample),
            labels=torch.tensor([sample.tokens.labels]),
        ).loss
        found = torch.autograd.grad(loss, list(parameters.values()))
        gradients.append(dict(zip(parameters, found, strict=True)))
        losses.append(loss.item())
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return gradients, losses


def causal_lm_gradients(model: nn.Module, batch: dict[str, Tensor]) -> tuple[list[dict[str, Tensor]], list[float]]:
    """Of a PEFT causal LM in eval mode: Hugging Face's own loss of one sample at a time, its padding cut away."""
    named = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    gradients, losses = [], []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        seen = mask.bool()
        loss = model(input_ids=ids[seen].unsqueeze(0), labels=labels[seen].unsqueeze(0)).loss
        found = torch.autograd.grad(loss, list(named.values()))
        gradients.append({name.replace(".default", ""): g for name, g in zip(named, found, strict=True)})
        losses.append(loss.item())
    return gradients, losses


def flags(model: VisionLanguageModel, sample: Sample) -> dict[str, Tensor]:
    """Which ids stand for an image, for the models that ask for it."""
    wanted = [
        name for name in ("mm_token_type_ids", "token_type_ids") if name in signature(model.base.forward).parameters
    ]
    return {name: (torch.tensor([sample.tokens.ids]) == model.base.config.image_token_id).int() for name in wanted}


def randomise_lora(model: nn.Module, seed: int = 0) -> None:
    """A fresh LoRA has B = 0, so every gradient of A would be zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
