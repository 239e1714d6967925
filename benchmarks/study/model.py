"""The study's model: where every training starts, and how many of a task's test questions a trained one answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from icons.config import ModelConfig
from icons.data.records import open_records
from icons.data.samples import DataSource
from icons.data.tokens import IGNORE
from icons.models.adapters import attach_adapter
from icons.models.loading import load_base
from icons.models.tiny import build_tiny_llava
from icons.models.vlm import VisionLanguageModel
from icons.training.samples import TrainingSamples
from icons.training.trainer import Recipe, fine_tune
from study.tower import train_tower

BATCH = 64


def make_start(folder: Path, data: Path, images: Path, *, rows: int, tower_steps: int, steps: int, seed: int) -> None:
    """A tiny LLaVA with every parameter trained on the first `rows` records of `data`; the folder comes last."""
    fresh, scratch = folder.with_suffix(".fresh"), folder.with_suffix(".training")
    for path in (fresh, scratch):
        shutil.rmtree(path, ignore_errors=True)
    build_tiny_llava(fresh, seed=seed)
    model = load_base(_plain(fresh))
    train_tower(model.base, fresh, data, images, steps=tower_steps, batch=128, seed=seed)
    source = DataSource(open_records(data), images, model.inputs)
    samples, _ = source.samples(range(rows))
    recipe = Recipe(
        steps=steps,
        learning_rate=1e-3,
        warmup_ratio=0.03,
        batch_size=16,
        save_steps=steps,
        seed=seed,
        bf16=False,
        on_cpu=True,
    )
    model.base.requires_grad_(True).train()
    model.base.model.vision_tower.requires_grad_(False)
    fine_tune(model.base, TrainingSamples(source, samples), scratch, recipe, "start")
    model.base.save_pretrained(fresh)
    shutil.rmtree(scratch)
    fresh.rename(folder)


def accuracy(base: Path, adapter: Path | None, tests: dict[str, Path], images: Path) -> dict[str, float]:
    """Share [0, 1] of each task's test records that are answered exactly.

    An answer is exact when every one of its tokens, the end included, is the likeliest behind the right ones before
    it, which is the case exactly when greedy decoding gives this answer.
    """
    model = load_base(_plain(base))
    if adapter is not None:
        model = attach_adapter(model, adapter)
    module = model.peft if adapter is not None else model.base
    module.eval()
    return {task: _share_right(model, module, path, images) for task, path in tests.items()}


def _share_right(model: VisionLanguageModel, module: torch.nn.Module, path: Path, images: Path) -> float:
    source = DataSource(open_records(path), images, model.inputs)
    samples, bad = source.samples(range(len(source.records)))
    assert not bad, bad
    collate, right = TrainingSamples(source, samples, model.token_type_arguments).collate, 0
    for start in range(0, len(samples), BATCH):
        batch = collate(samples[start : start + BATCH])
        del batch["rows"]
        labels_BT = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            best_BT = module(**batch).logits[:, :-1].argmax(-1)
        right += int(((best_BT == labels_BT) | (labels_BT == IGNORE)).all(dim=1).sum())
    return right / len(samples)


def _plain(folder: Path) -> ModelConfig:
    return ModelConfig(base=str(folder.absolute()), dtype="float32", device="cpu")
