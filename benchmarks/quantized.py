"""What a base in 8 or 4 bits does to gradients: cosines, each task's best 20%, and what methods select.

    python benchmarks/quantized.py [--seeds 3] [--json FILE]

The model is taught as the demo's; a seed decides the drawn records and the LoRA, which learns for some steps. Exact
gradients throughout, computed in float32, nothing is projected. The measure are the weights in float32 with their own
LoRA; compared with it are the same LoRA on the language model's weights rounded to bfloat16, 8 and 4 bits, and a LoRA
that has learned beside the quantised weights. As a scale: a LoRA that began with other numbers, beside float32. Each
row has root mean square error and Pearson correlation of all train-validation cosines, the part of each task's exact
top 20% that is found (mean over tasks), and of each method's selection.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from outcomes import METHODS, Outcome, compare, exact_gradients, outcome, targets, unit_rows, warm_up
from setting import circumstances, describe, drawn_source

from icons.config import LoraConfig, ModelConfig
from icons.demo.drawing import VqaSet, draw_vqa_set
from icons.demo.start import train_start
from icons.models.adapters import attach_adapter, attach_fresh_lora
from icons.models.loading import load_base
from icons.models.parts import language_linears
from icons.models.tiny import build_tiny_llava
from icons.models.vlm import VisionLanguageModel

COMPARED = (
    ("bfloat16", "16bit", "same"),
    ("8bit", "8bit", "same"),
    ("4bit", "4bit", "same"),
    ("8bit, LoRA learned there", "8bit", "own"),
    ("4bit, LoRA learned there", "4bit", "own"),
    ("float32, another LoRA", None, "other"),
)
"""Name, bits of the language model's weights, and the LoRA: that of float32, one learned there, one begun otherwise."""
FIRST_SEED = 10  # of the drawn records: the model has been taught on those of seed 1


@dataclass(frozen=True)
class Base:
    """A model folder, its language model's weights in some bits, and the shape of a LoRA."""

    folder: Path
    rank: int
    bits: str | None = None

    def load(self) -> VisionLanguageModel:
        quantization: Any = None if self.bits == "16bit" else self.bits
        model = load_base(ModelConfig(base=str(self.folder), device="cpu", dtype="float32", quantization=quantization))
        if self.bits == "16bit":
            for layer in language_linears(model.base).values():
                layer.weight.data = layer.weight.data.bfloat16().float()
        return model


def learned(base: Base, drawn: VqaSet, steps: int, seed: int, folder: Path) -> None:
    """Leaves in `folder` a LoRA that has learned for some steps beside the weights of `base`."""
    torch.manual_seed(seed)
    model = attach_fresh_lora(base.load(), LoraConfig(r=base.rank, alpha=2 * base.rank, dropout=0))
    model.peft.requires_grad_(False).eval()
    warm_up(model, drawn_source(model, drawn), steps)
    model.peft.save_pretrained(folder)


def outcome_of(model: VisionLanguageModel, drawn: VqaSet, percent: float) -> Outcome:
    target = targets(model, drawn)
    train = exact_gradients(model, drawn_source(model, drawn))
    return outcome(unit_rows(train), unit_rows(target.gradients), target, percent)


def one_seed(base: Base, folder: Path, drawn: VqaSet, seed: int, steps: int, percent: float) -> dict[str, Any]:
    """Name of what is compared -> its measures."""
    same = folder / "same"
    learned(base, drawn, steps, seed, same)
    exact = outcome_of(attach_adapter(base.load(), same), drawn, percent)
    outcomes = {}
    for name, bits, whose in COMPARED:
        other, adapter = replace(base, bits=bits), same if whose == "same" else folder / name
        if whose != "same":
            learned(other, drawn, steps, seed + 1000 * (whose == "other"), adapter)
        outcomes[name] = compare(exact, outcome_of(attach_adapter(other.load(), adapter), drawn, percent))
    return outcomes


def main(
    samples: Annotated[int, typer.Option(help="training records")] = 400,
    val_samples: Annotated[int, typer.Option(help="records of each task")] = 12,
    seeds: int = 3,
    lora_rank: Annotated[int, typer.Option("--rank", help="of the LoRA")] = 16,
    steps: Annotated[int, typer.Option(help="of warm-up")] = 40,
    percent: float = 20,
    random_weights: Annotated[bool, typer.Option("--random", help="a model that has not been taught")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure how far gradients beside quantised weights are from those beside the weights in float32."""
    facts = circumstances(torch.device("cpu"))
    facts["versions"]["bitsandbytes"] = version("bitsandbytes")
    typer.echo(describe(facts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).absolute()
        if random_weights:
            build_tiny_llava(folder / "model")
        else:
            train_start(folder)
        base, each = Base(folder / "model", lora_rank), []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            place = folder / str(seed)
            drawn = draw_vqa_set(place / "data", train_records=samples, val_records=val_samples, seed=seed)
            each.append(one_seed(base, place, drawn, seed, steps, percent))
    typer.echo(f"{samples} training records, {val_samples} of each task, {seeds} seeds\n")
    head = "".join(f"{method:>14}" for method in METHODS)
    typer.echo(f"{'base':<26}{'rmse':>8}{'worst':>8}{'pearson':>9}{'top 20%':>9}{head}")
    for name, *_ in COMPARED:
        mean = {key: float(np.mean([found[name][key] for found in each])) for key in each[0][name]}
        worst = max(found[name]["rmse"] for found in each)
        methods = "".join(f"{mean[method]:>14.1%}" for method in METHODS)
        typer.echo(f"{name:<26}{mean['rmse']:>8.4f}{worst:>8.4f}{mean['pearson']:>9.4f}{mean['top20']:>9.1%}{methods}")
    if json_file is not None:
        settings = {"samples": samples, "val_samples": val_samples, "seeds": seeds, "rank": lora_rank, "steps": steps}
        settings |= {"percent": percent, "random": random_weights}
        json_file.write_text(json.dumps({"seeds": each, "settings": settings, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
