"""The demo's model: a tiny LLaVA that has been taught a little, so that its gradients mean something."""

from __future__ import annotations

import shutil
from pathlib import Path

from icons.config import ModelConfig
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.demo.drawing import draw_vqa_set
from icons.models.loading import load_base
from icons.models.tiny import TINY, TinySize, build_tiny_llava
from icons.progress import say
from icons.training.recipe import Recipe
from icons.training.samples import TrainingSamples
from icons.training.trainer import fine_tune

RECORDS, STEPS = 1200, 450


def train_start(folder: Path, *, size: TinySize = TINY, seed: int = 0) -> None:
    """Writes folder/model: every parameter of a fresh tiny LLaVA trained on clean records of another seed.

    `seed` is of weights and order; the records are those that `draw_vqa_set` draws with 2 seed + 1.
    """
    fresh, scratch, target = folder / "model.fresh", folder / "model.training", folder / "model"
    other = draw_vqa_set(folder / "pretraining", train_records=RECORDS, val_records=1, wrong_share=0, seed=2 * seed + 1)
    build_tiny_llava(fresh, size=size, seed=seed)
    model = load_base(ModelConfig(base=str(fresh.absolute()), dtype="float32", device="cpu"))
    source = DataSource(open_records(other.train, other.images), model.inputs)
    samples, _ = source.samples(range(RECORDS))
    recipe = Recipe(
        steps=STEPS,
        learning_rate=1e-3,
        warmup_ratio=0.03,
        batch_size=16,
        save_steps=STEPS,
        seed=seed,
        bf16=False,
        on_cpu=True,
    )
    model.base.requires_grad_(True).train()
    trained = fine_tune(model.base, TrainingSamples(source, samples), scratch, recipe, "training")
    say(f"  loss {trained.loss:.2f} at the end")
    model.base.save_pretrained(fresh)
    shutil.rmtree(scratch)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
