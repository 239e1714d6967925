"""From per-sample gradients to what is selected by them, and how much of it another way of making them finds.

The oracle keeps the full per-sample LoRA gradients and projects nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from setting import decoded, drawn_source, encoded
from torch import Tensor

from icons.data.batching import plan_batches
from icons.data.samples import DataSource
from icons.demo.drawing import VqaSet
from icons.gradients.per_sample import ForwardPass, backpropagate
from icons.gradients.projection import make_projector
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
    """rmse and pearson over all cosines; spearman of each column's scores, mean over columns; shares of the exact that
    are found, of each column's top (mean) and of what each method selects."""
    shared = (exact.top & projected.top).sum(0) / exact.top.sum(0)
    return {
        "rmse": float(np.sqrt(np.mean((exact.cosines - projected.cosines) ** 2))),
        "pearson": float(np.corrcoef(exact.cosines.ravel(), projected.cosines.ravel())[0, 1]),
        "spearman": float(
            np.mean([_rank_correlation(a, b) for a, b in zip(exact.scores.T, projected.scores.T, strict=True)])
        ),
        "top20": float(shared.mean()),
        **{name: agreement(exact, projected, name) for name in METHODS},
    }


def agreement(a: Outcome, b: Outcome, method: str) -> float:
    """Share of a's selection that b selects too."""
    return len(a.selected[method] & b.selected[method]) / len(a.selected[method])


def _rank_correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Spearman's; scores of two rows are hardly ever the same."""
    ranks = [values.argsort().argsort() for values in (a, b)]
    return float(np.corrcoef(ranks)[0, 1])
