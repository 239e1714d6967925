"""The study's model: where every training with pictures starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from icons.config import ModelConfig
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.models.loading import load_base
from icons.models.tiny import build_tiny_llava
from icons.training.samples import TrainingSamples
from icons.training.trainer import Recipe, fine_tune
from study.tower import train_tower


def make_start(folder: Path, data: Path, images: Path, *, rows: int, tower_steps: int, steps: int, seed: int) -> None:
    """A tiny LLaVA with every parameter trained on the first `rows` records of `data`; the folder comes last."""
    fresh, scratch = folder.with_suffix(".fresh"), folder.with_suffix(".training")
    for path in (fresh, scratch):
        shutil.rmtree(path, ignore_errors=True)
    build_tiny_llava(fresh, seed=seed)
    model = load_base(_plain(fresh))
    train_tower(model.base, fresh, data, images, steps=tower_steps, batch=128, seed=seed)
    source = DataSource(open_records(data, images), model.inputs)
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


def _plain(folder: Path) -> ModelConfig:
    return ModelConfig(base=str(folder.absolute()), dtype="float32", device="cpu")
