"""Error of projected gradients against exact ones: the cosines, each task's best 20%, and what the vote selects.

    python benchmarks/fidelity.py [--json FILE]

A tiny LLaVA with a LoRA that has learned for a few steps; the training records and target tasks of the drawn set.
The oracle keeps the full per-sample LoRA gradients in float64 and projects nothing. For each kind, dimension and
seed: root mean square error and Pearson correlation of all train-validation cosines, the part of each task's exact
top 20% that the projected scores find (mean over tasks), and of the exact vote's selection. The last columns give
the variation between two seeds of the same projection as the share of the selection that both make.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from setting import circumstances, decoded, describe, drawn_source, encoded, tiny_model
from torch import Tensor

from icons.data.batching import plan_batches
from icons.data.samples import DataSource
from icons.demo.drawing import VqaSet, draw_vqa_set
from icons.gradients.kinds import PROJECTIONS
from icons.gradients.per_sample import ForwardPass, backpropagate
from icons.gradients.projection import make_projector
from icons.models.tiny import TINY
from icons.models.vlm import VisionLanguageModel
from icons.selection.consensus import budget, cast_votes, highest, percentile_ranks, thresholds
from icons.selection.influence import combine_groups, influence_scores

Gradients = dict[str, Tensor]
"""LoRA tensor -> [N, numel] float32."""


@dataclass(frozen=True)
class Target:
    """The validation gradients of all tasks below each other; `parts` are the rows of each, `groups` its members."""

    gradients: Gradients
    parts: list[slice]
    groups: list[list[int]]


def warm_up(model: VisionLanguageModel, source: DataSource, steps: int, rate: float = 2e-3, batch: int = 16) -> None:
    """A few Adam steps of the LoRA on the first records: gradients after it are no longer those of random weights."""
    lora = [parameter for name, parameter in model.peft.named_parameters() if "lora_" in name]
    samples = encoded(source)
    optimizer = torch.optim.Adam(lora, lr=rate)
    for parameter in lora:
        parameter.requires_grad_(True)
    for step in range(steps):
        chosen = [samples[(step * batch + index) % len(samples)] for index in range(batch)]
        inputs = decoded(source, chosen)
        logits = model.head(model.hidden_states(inputs))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs.labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.peft.requires_grad_(False)


def exact_gradients(model: VisionLanguageModel, source: DataSource, tokens_per_batch: int = 2048) -> Gradients:
    """Every record's whole LoRA gradient, in the order of the file."""
    samples, pairs = encoded(source), model.lora_pairs()
    kept = {name: torch.empty(len(samples), weight.numel()) for pair in pairs for name, weight in pair.tensors}
    for batch in plan_batches([sample.length for sample in samples], tokens_per_batch):
        inputs = decoded(source, [samples[position] for position in batch])

        def keep(name: str, grads_BP: Tensor, at: list[int] = batch) -> None:
            kept[name][at] = grads_BP

        hidden = partial(model.hidden_states, inputs)
        backpropagate(ForwardPass(pairs, hidden, model.head, inputs.labels), keep)
    return kept


def targets(model: VisionLanguageModel, drawn: VqaSet) -> Target:
    """All tasks of the drawn set, those of one group combined into one column as the published MME is."""
    found = [exact_gradients(model, drawn_source(model, drawn, path)) for path in drawn.tasks.values()]
    gradients = {name: torch.cat([task[name] for task in found]) for name in found[0]}
    stops = np.cumsum([len(next(iter(task.values()))) for task in found]).tolist()
    columns: dict[str, list[int]] = {}
    for index, name in enumerate(drawn.tasks):
        columns.setdefault(drawn.groups.get(name, name), []).append(index)
    parts = [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    return Target(gradients, parts, list(columns.values()))


def unit_rows(gradients: Gradients) -> Tensor:
    """[N, P] float64."""
    whole = torch.cat([gradients[name] for name in sorted(gradients)], dim=1).double()
    return whole / whole.norm(dim=1, keepdim=True)


def projected_rows(gradients: Gradients, kind: str, dim: int, seed: int) -> Tensor:
    """Unit rows [N, dim], rounded to float16 as a shard holds them, float64."""
    projector = make_projector(kind, dim, seed)
    sketch = torch.zeros(len(next(iter(gradients.values()))), dim)
    for name, grads in gradients.items():
        projector.add(name, grads, sketch)
    return (sketch / sketch.norm(dim=1, keepdim=True)).half().double()


@dataclass(frozen=True)
class Outcome:
    """Cosines [N, M], scores [N, K], each column's top 20% as booleans [N, K], indices that the vote selects."""

    cosines: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    top: npt.NDArray[np.bool_]
    selected: frozenset[int]


def outcome(train_ND: Tensor, val_MD: Tensor, target: Target, percent: float) -> Outcome:
    directions = torch.stack([val_MD[part].mean(0) for part in target.parts])
    scores = influence_scores(train_ND.float().numpy(), directions.float().numpy())
    scores = combine_groups(scores, target.groups)
    valid = np.ones(len(scores), np.bool_)
    tau = thresholds(scores, valid, percent)
    ranks = percentile_ranks(scores, valid)
    chosen = highest(
        cast_votes(scores, valid, tau).astype(float), ranks, valid, budget(len(scores), percent), "rank", 0
    )
    return Outcome((train_ND @ val_MD.T).numpy(), scores, scores >= tau, frozenset(chosen.tolist()))


def compare(exact: Outcome, found: Outcome) -> dict[str, float]:
    """rmse and pearson over all cosines; top20 and vote as shares of the exact ones that are found."""
    shared = (exact.top & found.top).sum(0) / exact.top.sum(0)
    return {
        "rmse": float(np.sqrt(np.mean((exact.cosines - found.cosines) ** 2))),
        "pearson": float(np.corrcoef(exact.cosines.ravel(), found.cosines.ravel())[0, 1]),
        "top20": float(shared.mean()),
        "vote": len(exact.selected & found.selected) / len(exact.selected),
    }


def measure(
    train: Gradients, target: Target, kinds: list[str], dims: list[int], seeds: int, percent: float
) -> list[dict[str, Any]]:
    """One row for each kind and dimension: means over the seeds, the worst rmse, agreement between seeds."""
    exact = outcome(unit_rows(train), unit_rows(target.gradients), target, percent)
    rows = []
    for kind in kinds:
        for dim in dims:
            found = []
            for seed in range(seeds):
                val_MD = projected_rows(target.gradients, kind, dim, seed)
                found.append(outcome(projected_rows(train, kind, dim, seed), val_MD, target, percent))
            each = [compare(exact, one) for one in found]
            row: dict[str, Any] = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
            agree = [len(a.selected & b.selected) / len(a.selected) for a, b in combinations(found, 2)]
            row |= {"rmse_worst": max(one["rmse"] for one in each), "seeds_agree": float(np.mean(agree or [1.0]))}
            rows.append({"kind": kind, "dim": dim, **row})
    return rows


def main(
    samples: Annotated[int, typer.Option(help="training records")] = 400,
    val_samples: Annotated[int, typer.Option(help="records of each task")] = 12,
    seeds: int = 3,
    dims: Annotated[str, typer.Option(help="separated by commas")] = "512,1024,2048,5120",
    kinds: Annotated[str, typer.Option(help="separated by commas")] = ",".join(PROJECTIONS),
    rank: Annotated[int, typer.Option(help="of the LoRA")] = 16,
    steps: Annotated[int, typer.Option(help="of warm-up")] = 40,
    percent: float = 20,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure how far projected cosines, top shares and votes are from exact ones."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = tiny_model(folder, TINY, rank)
        drawn = draw_vqa_set(folder / "data", train_records=samples, val_records=val_samples)
        source = drawn_source(model, drawn)
        warm_up(model, source, steps)
        train, target = exact_gradients(model, source), targets(model, drawn)
    parameters = sum(grads.shape[1] for grads in train.values())
    wanted = [int(dim) for dim in dims.split(",")]
    rows = measure(train, target, kinds.split(","), wanted, seeds, percent)
    groups, val = len(target.groups), len(next(iter(target.gradients.values())))
    typer.echo(f"{samples} training and {val} validation records, {groups} tasks, {parameters} LoRA parameters\n")
    typer.echo(
        f"{'projection':<13}{'dim':>6}{'rmse':>9}{'worst':>9}{'pearson':>9}{'top 20%':>9}{'vote':>8}{'seeds':>8}"
    )
    for row in rows:
        typer.echo(
            f"{row['kind']:<13}{row['dim']:>6}{row['rmse']:>9.4f}{row['rmse_worst']:>9.4f}{row['pearson']:>9.4f}"
            f"{row['top20']:>9.1%}{row['vote']:>8.1%}{row['seeds_agree']:>7.1%}"
        )
    if json_file is not None:
        settings = {"samples": samples, "val_samples": val_samples, "seeds": seeds, "rank": rank, "steps": steps}
        settings |= {"percent": percent, "parameters": parameters}
        json_file.write_text(json.dumps({"rows": rows, "settings": settings, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
