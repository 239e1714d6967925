"""The study's results as numbers, as a table and as a figure."""

from __future__ import annotations

import io
from statistics import mean, stdev
from typing import Any

from icons.store.files import read_json
from study.data import SHARES
from study.jobs import ARMS, BEST, Arm, Study, result


def summary(study: Study) -> dict[str, Any]:
    """By arm: relative score, exact answers and loss of every seed, mean and deviation, and what was selected.

    Seeds that are not finished are left out.
    """
    seeds = [seed for seed in range(study.size.seeds) if all(result(study, seed, arm) for arm in study.arms)]
    full = {seed: content for seed in seeds if (content := result(study, seed, ARMS[0]))}
    starts = {seed: read_json(study.root / "results" / f"seed-{seed}" / "start.json") for seed in seeds}
    arms = {"start, untrained": _row(starts, full)}
    for arm in study.arms:
        arms[arm.name] = _row({seed: run for seed in seeds if (run := result(study, seed, arm))}, full)
    return {"seeds": seeds, "arms": arms}


def _row(runs: dict[int, dict[str, Any]], full: dict[int, dict[str, Any]]) -> dict[str, Any]:
    relative = []
    for seed, run in runs.items():
        own, whole = run["exact"]["tasks"], full[seed]["exact"]["tasks"]
        relative.append(100 * mean(own[task] / whole[task] if whole[task] else 0.0 for task in own))
    row = {
        "relative": [round(value, 2) for value in relative],
        "mean": round(mean(relative), 2) if relative else None,
        "deviation": round(stdev(relative), 2) if len(relative) > 1 else None,
        "exact": [run["exact"]["mean"] for run in runs.values()],
        "loss": [run["loss"]["mean"] for run in runs.values()],
    }
    first = next(iter(runs.values()), {})
    for key in ("selected", "tasks_in_it", "sample_passes"):
        if key in first:
            row[key] = {name: round(mean(run[key][name] for run in runs.values()), 1) for name in first[key]}
    for key in ("answer_distance", "answer_distance_by_chance"):
        if key in first:
            row[key] = round(mean(run[key] for run in runs.values()), 3)
    if "tasks_in_it" in first:
        row["fewest_of_a_task"] = min(min(run["tasks_in_it"].values()) for run in runs.values())
    return row


def table(numbers: dict[str, Any]) -> str:
    """Markdown."""
    seeds = len(numbers["seeds"])
    head = [f"{seeds} seeds", "relative score", "each seed", "exact", "loss", *SHARES, "answers", "by chance", "fewest"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in numbers["arms"].items():
        if row["mean"] is None:
            continue
        spread = f" ± {row['deviation']:.1f}" if row["deviation"] is not None else ""
        exact, loss = (mean(each["mean"] for each in row[measure]) for measure in ("exact", "loss"))
        total = sum(row["selected"].values()) if "selected" in row else 0
        parts = [f"{count / total:.0%}" for count in row["selected"].values()] if total else [""] * len(SHARES)
        rest = [row.get(key, "") for key in ("answer_distance", "answer_distance_by_chance", "fewest_of_a_task")]
        each_seed = ", ".join(f"{value:.1f}" for value in row["relative"])
        cells = [name, f"{row['mean']:.1f}{spread}", each_seed, f"{exact:.1%}", f"{loss:.3f}", *parts, *map(str, rest)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(numbers: dict[str, Any]) -> bytes:
    """Relative scores of all 20% selections, every seed a dot; with other sizes, four methods by size. As PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = {name: row for name, row in numbers["arms"].items() if row["mean"] is not None}
    by_size = {arm.name: arm for arm in ARMS if arm.group == "sizes"}
    names = sorted(
        (name for name in rows if name not in by_size and name not in ("start, untrained", "everything")),
        key=lambda name: rows[name]["mean"],
    )
    sizes = any(name in rows for name in by_size)
    figure = Figure(figsize=(9 if sizes else 6.5, 0.8 + 0.4 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2)) if sizes else (figure.subplots(), None)
    for place, name in enumerate(names):
        left.plot(rows[name]["relative"], [place] * len(rows[name]["relative"]), "o", color="0.6", markersize=4)
        left.plot(rows[name]["mean"], place, "D", color="#0072B2", markersize=6)
    left.set_yticks(range(len(names)), names)
    left.axvline(100, color="0.3", linewidth=1)
    left.set_xlabel("score relative to training on everything, %")
    left.set_title("20% of the data, by method", loc="left", fontsize=10)
    left.grid(axis="x", alpha=0.3)
    if right is not None:
        _by_size(right, rows)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _by_size(right: Any, rows: dict[str, Any]) -> None:
    styles = {"random": ("0.5", "o"), "vote": ("#D55E00", "s"), BEST[0]: ("#0072B2", "D"), BEST[1]: ("#009E73", "^")}
    for method, (colour, mark) in styles.items():
        points = sorted((arm.percent, rows[arm.name]["mean"]) for arm in ARMS if _of(arm, method) and arm.name in rows)
        if points:
            right.plot(*zip(*points, strict=True), f"{mark}-", color=colour, label=method, markersize=5)
    right.axhline(100, color="0.3", linewidth=1)
    right.set_xlabel("selected, % of the data")
    right.set_title("by size of the selection", loc="left", fontsize=10)
    right.grid(alpha=0.3)
    right.legend(frameon=False)


def _of(arm: Arm, method: str) -> bool:
    return arm.method == method and not arm.exact and not arm.draw
