"""What gradients of the last N layers alone lose against those of all (`gradients.layers`), and what they cost.

`fidelity.py --last 1,2,4` has the options. The oracle is `outcomes`: exact gradients of all layers. Every model is
taught anew, from its own weights, order and records.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from outcomes import METHODS, Gradients, Outcome, Target, compare, outcome, projected_rows, unit_rows
from roofline import counted_flop
from setting import decoded, encoded

from icons.data.batching import plan_batches
from icons.data.samples import DataSource
from icons.demo.drawing import WRONG, VqaSet
from icons.gradients.layers import ALL, counted
from icons.gradients.projection import make_projector
from icons.gradients.rows import projected_rows as engine_rows
from icons.gradients.types import sgd
from icons.models.vlm import VisionLanguageModel

Row = dict[str, Any]


def restricted(gradients: Gradients, layers: str, total: int) -> Gradients:
    """The tensors that count; what the engine gives them is the same (tests/gradients/test_layers.py)."""
    counting = counted(gradients, layers, total)
    return {name: grads for name, grads in gradients.items() if name in counting}


def lost(
    train: Gradients, target: Target, names: list[str], total: int, dim: int, seeds: int, percent: float, drawn: VqaSet
) -> list[Row]:
    """A row for each of `names` and of all layers, exact (`dim` None) and projected with each seed."""
    exact = outcome(unit_rows(train), unit_rows(target.gradients), target, percent)
    wrong = {row for row, source in enumerate(drawn.sources.values()) if source == WRONG}
    rows: list[Row] = []

    def add(layers: str, size: int, seed: int | None, outcome: Outcome) -> None:
        selected = outcome.selected
        shares = {f"{name}_wrong": len(selected[name] & wrong) / len(selected[name]) for name in METHODS}
        how = {"layers": layers, "parameters": size, "dim": None if seed is None else dim, "seed": seed}
        rows.append({**how, **compare(exact, outcome), **shares})

    for layers in [ALL, *names]:
        ours, theirs = (restricted(each, layers, total) for each in (train, target.gradients))
        size = sum(grads.shape[1] for grads in ours.values())
        add(layers, size, None, outcome(unit_rows(ours), unit_rows(theirs), target, percent))
        for seed in range(seeds) if dim <= size else []:
            rows_of = [projected_rows(each, "count_sketch", dim, seed) for each in (ours, theirs)]
            add(layers, size, seed, outcome(rows_of[0], rows_of[1], target, percent))
    return rows


def costs(
    model: VisionLanguageModel, source: DataSource, names: list[str], dim: int, rounds: int, samples: int = 64
) -> list[Row]:
    """Operations and CPU time of gradients and their count sketch beside those of all layers, on one thread.

    `time` has the ratio of each round; in a round every contestant has its turn, and the order changes.
    """
    torch.set_num_threads(1)
    records = encoded(source)[:samples]
    plan = plan_batches([sample.length for sample in records], 2048)
    batches = [decoded(source, [records[at] for at in batch]) for batch in plan]
    projector = make_projector("count_sketch", dim, 0)

    def work(layers: str) -> None:
        pairs = model.lora_pairs(layers)
        for batch in batches:
            engine_rows(model.forward_pass(pairs, batch), projector, sgd)

    contestants, seconds = [ALL, *names], {name: list[float]() for name in [ALL, *names]}
    flop = {name: counted_flop(lambda name=name: work(name)) for name in contestants}  # type: ignore[misc]
    for turn in range(rounds):
        for name in contestants if turn % 2 == 0 else reversed(contestants):
            begin = time.process_time()
            work(name)
            seconds[name].append(time.process_time() - begin)
    return [
        {
            "layers": name,
            "flop": flop[name] / flop[ALL],
            "time": [own / whole for own, whole in zip(seconds[name], seconds[ALL], strict=True)],
        }
        for name in contestants
    ]


MEASURES = ("rmse", "spearman", "top20", *METHODS, *(f"{name}_wrong" for name in METHODS))


def summary(models: list[Row]) -> list[Row]:
    """For each layers and dim: [mean, least, most] of each measure over the models, each the mean of its seeds."""
    kinds = {(row["layers"], row["dim"]): row["parameters"] for model in models for row in model["rows"]}
    rows = []
    for (layers, dim), parameters in kinds.items():
        row: Row = {"layers": layers, "parameters": parameters, "dim": dim}
        for name in MEASURES:
            each = [
                float(np.mean([one[name] for one in model["rows"] if (one["layers"], one["dim"]) == (layers, dim)]))
                for model in models
            ]
            row[name] = [float(np.mean(each)), min(each), max(each)]
        rows.append(row)
    return rows


def table(models: list[Row]) -> Iterable[str]:
    """Lines for a person: mean over the models, behind it the least and the most."""
    yield f"{'layers':<10}{'parameters':>11}{'dim':>7}" + "".join(f"{name:>22}" for name in MEASURES)
    for row in summary(models):
        cells = "".join(f"{'{:.3f} ({:.3f}-{:.3f})'.format(*row[name]):>22}" for name in MEASURES)
        yield f"{row['layers']:<10}{row['parameters']:>11,}{row['dim'] or 'exact':>7}{cells}"
    yield ""
    yield f"{'layers':<10}{'operations':>11}{'CPU time':>10}{'rounds':>20}"
    for row in models[0]["costs"]:
        ratios = row["time"]
        spread = f"{min(ratios):.3f}-{max(ratios):.3f}"
        yield f"{row['layers']:<10}{row['flop']:>11.3f}{statistics.median(ratios):>10.3f}{spread:>20}"
