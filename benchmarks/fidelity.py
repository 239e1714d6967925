"""Error of projected gradients against exact ones: the cosines, each task's best 20%, and what methods select.

    python benchmarks/fidelity.py [--trained] [--json FILE]
    python benchmarks/fidelity.py --trained --depth 8 --last 1,2,4,6 [--json FILE]

A tiny LLaVA, with random weights or (--trained) taught as the demo's is, with a LoRA that has learned for a few steps;
the training records and target tasks of the drawn set. The oracle keeps the full per-sample LoRA gradients in float64
and projects nothing. For each kind, dimension and seed: root mean square error and Pearson correlation of all
train-validation cosines, the part of each task's exact top 20% that the projected scores find (mean over tasks), and
of each method's exact selection; behind each the part of it on which two seeds of the projection agree.

With --last the same of gradients of the last N layers alone, exact and projected, against exact ones of all layers; the
rank correlation of scores; how many of a selection are records with a wrong answer; and counted operations and CPU time
beside those of all layers. Several models; the file has each as soon as it is measured, and the next call goes on.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import last_layers
import numpy as np
import torch
import typer
from outcomes import (
    METHODS,
    Gradients,
    Target,
    agreement,
    compare,
    exact_gradients,
    outcome,
    projected_rows,
    targets,
    unit_rows,
    warm_up,
)
from setting import circumstances, describe, drawn_source, taught_model, tiny_model

from icons.data.samples import DataSource
from icons.demo.drawing import VqaSet, draw_vqa_set
from icons.gradients.kinds import PROJECTIONS
from icons.models.tiny import TINY
from icons.models.vlm import VisionLanguageModel


def measure(
    train: Gradients, target: Target, kinds: list[str], dims: list[int], seeds: int, percent: float
) -> list[dict[str, Any]]:
    """One row for each kind and dimension: means over the seeds, the worst rmse, agreement between seeds."""
    exact = outcome(unit_rows(train), unit_rows(target.gradients), target, percent)
    rows = []
    for kind in kinds:
        for dim in dims:
            outcomes = []
            for seed in range(seeds):
                val_MD = projected_rows(target.gradients, kind, dim, seed)
                outcomes.append(outcome(projected_rows(train, kind, dim, seed), val_MD, target, percent))
            each = [compare(exact, one) for one in outcomes]
            row: dict[str, Any] = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
            for name in METHODS:
                agree = [agreement(a, b, name) for a, b in combinations(outcomes, 2)]
                row[f"{name}_seeds"] = float(np.mean(agree or [1.0]))
            row |= {"rmse_worst": max(one["rmse"] for one in each)}
            rows.append({"kind": kind, "dim": dim, **row})
    return rows


def main(
    samples: Annotated[int, typer.Option(help="training records")] = 400,
    val_samples: Annotated[int, typer.Option(help="records of each task")] = 12,
    seeds: Annotated[int, typer.Option(help="of each projection")] = 3,
    dims: Annotated[str, typer.Option(help="separated by commas")] = "512,1024,2048,5120",
    kinds: Annotated[str, typer.Option(help="separated by commas")] = ",".join(PROJECTIONS),
    lora_rank: Annotated[int, typer.Option("--rank", help="of the LoRA")] = 16,
    steps: Annotated[int, typer.Option(help="of warm-up")] = 40,
    percent: float = 20,
    trained: Annotated[bool, typer.Option("--trained", help="a model that has been taught, as the demo's")] = False,
    depth: Annotated[int, typer.Option(help="decoder layers of the model")] = TINY.text_layers,
    last: Annotated[str, typer.Option(help="N of gradients.layers last-N, separated by commas, instead")] = "",
    models: Annotated[int, typer.Option(help="with --last: models, each of its own seed")] = 3,
    rounds: Annotated[int, typer.Option(help="with --last: of the time")] = 9,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure how far projected cosines, top shares and votes are from exact ones."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    sizes = [int(dim) for dim in dims.split(",")]
    settings: dict[str, Any] = {"samples": samples, "val_samples": val_samples, "seeds": seeds, "rank": lora_rank}
    settings |= {"steps": steps, "percent": percent, "trained": trained, "depth": depth}

    def one(folder: Path, seed: int) -> tuple[VisionLanguageModel, VqaSet, DataSource]:
        """A model with the LoRA that a few steps left, and what its gradients are of."""
        torch.manual_seed(seed)
        size = replace(TINY, text_layers=depth)
        model = taught_model(folder, lora_rank, size, seed) if trained else tiny_model(folder, size, lora_rank)
        records = {"train_records": samples, "val_records": val_samples}
        drawn = draw_vqa_set(folder / "data", **records, seed=2 * seed)  # what taught_model sees is of odd seeds
        source = drawn_source(model, drawn)
        warm_up(model, source, steps)
        return model, drawn, source

    if last:
        names = [f"last-{n}" for n in last.split(",")]
        settings |= {"dim": sizes[-1], "last": last, "rounds": rounds}
        outcomes = _kept(json_file, settings)
        for seed in range(len(outcomes), models):
            with tempfile.TemporaryDirectory() as name:
                model, drawn, source = one(Path(name), seed)
                train, target = exact_gradients(model, source), targets(model, drawn)
                rows = last_layers.lost(train, target, names, depth, sizes[-1], seeds, percent, drawn)
                costs = last_layers.costs(model, source, names, sizes[-1], rounds) if seed == 0 else []
            outcomes.append({"seed": seed, "rows": rows, "costs": costs})
            if json_file is not None:  # after each model, which takes minutes
                content = {"summary": last_layers.summary(outcomes), "models": outcomes, "settings": settings, **facts}
                json_file.write_text(json.dumps(content, indent=1) + "\n")
        typer.echo("\n".join(last_layers.table(outcomes)))
        return
    with tempfile.TemporaryDirectory() as name:
        model, drawn, source = one(Path(name), 0)
        train, target = exact_gradients(model, source), targets(model, drawn)
    parameters = sum(grads.shape[1] for grads in train.values())
    rows = measure(train, target, kinds.split(","), sizes, seeds, percent)
    groups, val = len(target.groups), len(next(iter(target.gradients.values())))
    typer.echo(f"{samples} training and {val} validation records, {groups} tasks, {parameters} LoRA parameters\n")
    head = "".join(f"{name:>14}{'seeds':>7}" for name in METHODS)
    typer.echo(f"{'projection':<13}{'dim':>6}{'rmse':>9}{'worst':>9}{'pearson':>9}{'top 20%':>9}{head}")
    for row in rows:
        chosen = "".join(f"{row[name]:>14.1%}{row[f'{name}_seeds']:>7.0%}" for name in METHODS)
        typer.echo(
            f"{row['kind']:<13}{row['dim']:>6}{row['rmse']:>9.4f}{row['rmse_worst']:>9.4f}{row['pearson']:>9.4f}"
            f"{row['top20']:>9.1%}{chosen}"
        )
    if json_file is not None:
        settings |= {"parameters": parameters}
        json_file.write_text(json.dumps({"rows": rows, "settings": settings, **facts}, indent=1) + "\n")


def _kept(path: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What an earlier call with these settings, which was killed or had fewer models, has measured."""
    if path is None or not path.is_file():
        return []
    before = json.loads(path.read_text())
    return list(before["models"]) if before["settings"] == settings else []


if __name__ == "__main__":
    typer.run(main)
