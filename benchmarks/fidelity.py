"""Error of projected gradients against exact ones: the cosines, each task's best 20%, and what methods select.

    python benchmarks/fidelity.py [--trained] [--json FILE]

A tiny LLaVA, with random weights or (--trained) taught as the demo's is, with a LoRA that has learned for a few steps;
the training records and target tasks of the drawn set. The oracle keeps the full per-sample LoRA gradients in float64
and projects nothing. For each kind, dimension and seed: root mean square error and Pearson correlation of all
train-validation cosines, the part of each task's exact top 20% that the projected scores find (mean over tasks), and
of each method's exact selection; behind each the part of it on which two seeds of the projection agree.
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
from setting import circumstances, decoded, describe, drawn_source, encoded, taught_model, tiny_model
from torch import Tensor

from icons.data.batching import plan_batches
from icons.data.samples import DataSource
from icons.demo.drawing import VqaSet, draw_vqa_set
from icons.gradients.kinds import PROJECTIONS
from icons.gradients.per_sample import ForwardPass, backpropagate
from icons.gradients.projection import make_projector
from icons.models.tiny import TINY
from icons.models.vlm import VisionLanguageModel
from icons.selection.consensus import budget, highest, percentile_ranks, thresholds
from icons.selection.influence import combine_groups, influence_scores
from icons.selection.registry import Evidence, find_method, rank
from icons.selection.voters import Block, Voters

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


METHODS = ("vote", "proportional", "coverage")


@dataclass(frozen=True)
class Outcome:
    """Cosines [N, M], scores [N, K], each column's top 20% as booleans [N, K], indices that each method selects."""

    cosines: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    top: npt.NDArray[np.bool_]
    selected: dict[str, frozenset[int]]


def outcome(train_ND: Tensor, val_MD: Tensor, target: Target, percent: float) -> Outcome:
    directions = torch.stack([val_MD[part].mean(0) for part in target.parts])
    scores = influence_scores(train_ND.float().numpy(), directions.float().numpy())
    scores = combine_groups(scores, target.groups)
    cosines, valid = train_ND @ val_MD.T, np.ones(len(scores), np.bool_)
    column = {part: number for number, members in enumerate(target.groups) for part in members}
    columns = np.repeat([column[at] for at in range(len(target.parts))], [p.stop - p.start for p in target.parts])
    block = Block(np.arange(len(scores)), cosines.T.float())
    zeros = np.zeros(len(scores), np.float32)
    evidence = Evidence(
        scores, valid, list(map(str, range(scores.shape[1]))), zeros, zeros, zeros, percent,
        budget(len(scores), percent), voters=lambda: Voters(columns, lambda thin: iter([block])),
        options={
            "proportional": {"approve": None}, "coverage": {"voters": None, "pool": None}, "tie_break": "rank",
        },
    )  # fmt: skip
    ranks = percentile_ranks(scores, valid)
    selected = {}
    for name in METHODS:
        values = rank(find_method(name), evidence).values
        selected[name] = frozenset(highest(values, ranks, valid, evidence.count, "rank", 0).tolist())
    return Outcome(cosines.numpy(), scores, scores >= thresholds(scores, valid, percent), selected)


def compare(exact: Outcome, projected: Outcome) -> dict[str, float]:
    """rmse and pearson over all cosines; top20 and each method as shares of the exact ones that are found."""
    shared = (exact.top & projected.top).sum(0) / exact.top.sum(0)
    return {
        "rmse": float(np.sqrt(np.mean((exact.cosines - projected.cosines) ** 2))),
        "pearson": float(np.corrcoef(exact.cosines.ravel(), projected.cosines.ravel())[0, 1]),
        "top20": float(shared.mean()),
        **{name: _agree(exact, projected, name) for name in METHODS},
    }


def _agree(a: Outcome, b: Outcome, method: str) -> float:
    return len(a.selected[method] & b.selected[method]) / len(a.selected[method])


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
                agree = [_agree(a, b, name) for a, b in combinations(outcomes, 2)]
                row[f"{name}_seeds"] = float(np.mean(agree or [1.0]))
            row |= {"rmse_worst": max(one["rmse"] for one in each)}
            rows.append({"kind": kind, "dim": dim, **row})
    return rows


def main(
    samples: Annotated[int, typer.Option(help="training records")] = 400,
    val_samples: Annotated[int, typer.Option(help="records of each task")] = 12,
    seeds: int = 3,
    dims: Annotated[str, typer.Option(help="separated by commas")] = "512,1024,2048,5120",
    kinds: Annotated[str, typer.Option(help="separated by commas")] = ",".join(PROJECTIONS),
    lora_rank: Annotated[int, typer.Option("--rank", help="of the LoRA")] = 16,
    steps: Annotated[int, typer.Option(help="of warm-up")] = 40,
    percent: float = 20,
    trained: Annotated[bool, typer.Option("--trained", help="a model that has been taught, as the demo's")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure how far projected cosines, top shares and votes are from exact ones."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        model = taught_model(folder, lora_rank) if trained else tiny_model(folder, TINY, lora_rank)
        drawn = draw_vqa_set(folder / "data", train_records=samples, val_records=val_samples)
        source = drawn_source(model, drawn)
        warm_up(model, source, steps)
        train, target = exact_gradients(model, source), targets(model, drawn)
    parameters = sum(grads.shape[1] for grads in train.values())
    sizes = [int(dim) for dim in dims.split(",")]
    rows = measure(train, target, kinds.split(","), sizes, seeds, percent)
    groups, val = len(target.groups), len(next(iter(target.gradients.values())))
    typer.echo(f"{samples} training and {val} validation records, {groups} tasks, {parameters} LoRA parameters\n")
    head = "".join(f"{name:>14}{'seeds':>7}" for name in METHODS)
    typer.echo(f"{'projection':<13}{'dim':>6}{'rmse':>9}{'worst':>9}{'pearson':>9}{'top 20%':>9}{head}")
    for row in rows:
        methods = "".join(f"{row[name]:>14.1%}{row[f'{name}_seeds']:>7.0%}" for name in METHODS)
        typer.echo(
            f"{row['kind']:<13}{row['dim']:>6}{row['rmse']:>9.4f}{row['rmse_worst']:>9.4f}{row['pearson']:>9.4f}"
            f"{row['top20']:>9.1%}{methods}"
        )
    if json_file is not None:
        settings = {"samples": samples, "val_samples": val_samples, "seeds": seeds, "rank": lora_rank, "steps": steps}
        settings |= {"percent": percent, "parameters": parameters, "trained": trained}
        json_file.write_text(json.dumps({"rows": rows, "settings": settings, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
