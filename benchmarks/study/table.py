"""The study's results as numbers, as a table and as a figure."""

from __future__ import annotations

import io
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from icons.store.files import read_json
from study.data import SHARES, TASKS
from study.jobs import ARMS, RATIOS, arms_of, result


def summary(root: Path, seeds: int) -> dict[str, Any]:
    """By arm: accuracy per task and relative score of every seed, mean and deviation, what was selected and how skewed.

    Seeds that are not finished are left out.
    """
    whole = [seed for seed in range(seeds) if all(result(root, seed, arm) for arm in arms_of(seed))]
    found: dict[str, Any] = {"seeds": whole, "arms": {}}
    full = {seed: run["accuracy"] for seed in whole if (run := result(root, seed, ARMS[0]))}
    start = {seed: read_json(root / "results" / f"seed-{seed}" / "start.json")["accuracy"] for seed in whole}
    found["arms"]["start, untrained"] = _row(start, full, {}, {}, None)
    for arm in ARMS:
        runs = {seed: run for seed in whole if arm in arms_of(seed) and (run := result(root, seed, arm))}
        scores = {seed: run["accuracy"] for seed, run in runs.items()}
        selected, passes = (_mean([run[key] for run in runs.values()]) for key in ("selected", "sample_passes"))
        skews = [run["answer_skew"] for run in runs.values()]
        found["arms"][arm.name] = _row(scores, full, selected, passes, mean(skews) if skews else None)
    return found


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: mean(each[key] for each in found) for key in found[0]} if found else {}


def _row(
    scores: dict[int, dict[str, float]],
    full: dict[int, dict[str, float]],
    selected: dict[str, float],
    passes: dict[str, float],
    skew: float | None,
) -> dict[str, Any]:
    relative = [100 * mean(own[task] / full[seed][task] for task in TASKS) for seed, own in scores.items()]
    return {
        "relative": [round(value, 2) for value in relative],
        "mean": round(mean(relative), 2) if relative else None,
        "deviation": round(stdev(relative), 2) if len(relative) > 1 else None,
        "accuracy": {task: round(100 * mean(own[task] for own in scores.values()), 1) for task in TASKS},
        "selected": {part: round(count, 1) for part, count in selected.items()},
        "answer_skew": None if skew is None else round(skew, 3),
        "sample_passes": passes,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    seeds = len(found["seeds"])
    columns = [f"{seeds} seeds", "relative score", *TASKS, *SHARES, "skew", "passes"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in found["arms"].items():
        spread = f" ± {row['deviation']:.1f}" if row["deviation"] is not None else ""
        total = sum(row["selected"].values())
        parts = [f"{count / total:.0%}" for count in row["selected"].values()] if total else ["", "", "", ""]
        passes = f"{row['sample_passes']['done']:,.0f}" if row["sample_passes"] else ""
        skew = "" if row["answer_skew"] is None else f"{row['answer_skew']:.2f}"
        scores = [f"{row['accuracy'][task]:.1f}" for task in TASKS]
        lines.append(f"| {name} | {row['mean']:.1f}{spread} | {' | '.join([*scores, *parts, skew, passes])} |")
    return "\n".join(lines)


def plot(found: dict[str, Any]) -> bytes:
    """Relative scores of all 20% selections, every seed a dot, and of the vote by its percentage, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = found["arms"]
    ratios = [f"vote {percent}%" for percent in RATIOS]
    names = sorted(
        (n for n in arms if n not in (*ratios, "start, untrained", "everything")), key=lambda n: arms[n]["mean"]
    )
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharex=False)
    for place, name in enumerate(names):
        left.plot(arms[name]["relative"], [place] * len(arms[name]["relative"]), "o", color="0.6", markersize=4)
        left.plot(arms[name]["mean"], place, "D", color="#0072B2", markersize=6)
    left.set_yticks(range(len(names)), names)
    left.axvline(100, color="0.3", linewidth=1)
    left.set_xlabel("score relative to training on everything, %")
    left.set_title("20% of the data, by method", loc="left", fontsize=10)
    left.grid(axis="x", alpha=0.3)
    points = sorted(
        [(20, arms["vote"]), *((percent, arms[f"vote {percent}%"]) for percent in RATIOS)], key=lambda p: p[0]
    )
    right.plot([percent for percent, _ in points], [row["mean"] for _, row in points], "D-", color="#0072B2")
    for percent, row in points:
        right.plot([percent] * len(row["relative"]), row["relative"], "o", color="0.6", markersize=4)
    right.axhline(100, color="0.3", linewidth=1)
    right.set_xlabel("selected by vote, % of the data")
    right.set_title("by size of the selection", loc="left", fontsize=10)
    right.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
