"""Draws the rooms of the house and the imports between them: python -m docs.rooms

Writes pictures/rooms.svg and rooms.png beside this file, and rooms.json, which tests/test_rooms.py compares with the
imports as they are.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.test_rooms import FLOORS, STAGES, imports, room

HERE = Path(__file__).parent
BASE = FLOORS[-1]
WIDTH, HEIGHT, GAP = 1.42, 0.5, 0.22
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56789a", "#7a5195", "#555555", "#2f6f6f")


def arrows() -> dict[str, int]:
    """ "from -> to" -> how many imports; what everybody may use (the lowest floor) is left out."""
    counts: Counter[str] = Counter()
    for module, others in imports().items():
        for other in others:
            here, there = room(module), room(other)
            if here != there and not {here, there} & {*BASE, "__main__", "__init__"}:
                counts[f"{here} -> {there}"] += 1
    return dict(sorted(counts.items()))


def drawn(counts: dict[str, int]) -> dict[str, int]:
    """Without the arrows that also lead by way of other rooms: those are there in rooms.json."""
    pairs = {tuple(arrow.split(" -> ")) for arrow in counts}
    below: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        if name not in below:
            below[name] = set()
            for here, there in pairs:
                if here == name:
                    below[name] |= {there} | reached(there)
        return below[name]

    short = {
        (here, there)
        for here, there in pairs
        if not any(there in reached(other) for first, other in pairs if first == here and other != there)
    }
    return {arrow: count for arrow, count in counts.items() if tuple(arrow.split(" -> ")) in short}


def floors() -> list[tuple[str, ...]]:
    """From the top, the rooms of `stages` on floors of their own."""
    rows: list[tuple[str, ...]] = []
    for floor in FLOORS:
        if floor == ("stages",):
            rows += [tuple(f"stages/{name}" for name in stage) for stage in STAGES]
        else:
            rows.append(tuple(name for name in floor if name != "__main__"))
    return rows


def draw(counts: dict[str, int]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "rooms"
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    rows = floors()
    step = HEIGHT + 0.52
    figure = Figure(figsize=(10, 0.62 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots()
    places: dict[str, tuple[float, float]] = {}
    for level, names in enumerate(rows):
        y = -level * step
        lowest = level == len(rows) - 1
        span = (WIDTH + (0.06 if lowest else 2.6 * GAP)) * (len(names) - 1)
        shift = 0.0
        for at, name in enumerate(names):
            places[name] = (-span / 2 + at * span / max(1, len(names) - 1) + shift, y)
    inside = [places[f"stages/{name}"][1] for floor in STAGES for name in floor]
    axes.add_patch(
        FancyBboxPatch(
            (-2.6, min(inside) - 0.42), 5.2, max(inside) - min(inside) + 0.84,
            boxstyle="round,pad=0.04", facecolor="#f5f7fa", edgecolor="#c9d1d9", linewidth=0.8, zorder=0,
        )
    )  # fmt: skip
    axes.text(-2.5, max(inside) + 0.27, "stages", fontsize=8, color="#59636e", zorder=1)
    levels = {name: level for level, names in enumerate(rows) for name in names}
    for arrow, count in drawn(counts).items():
        here, there = arrow.split(" -> ")
        (x1, y1), (x2, y2) = places[here], places[there]
        distance = levels[there] - levels[here]
        bend = 0.0 if distance == 1 else (0.2 if x2 > x1 else -0.2)
        axes.add_patch(
            FancyArrowPatch(
                (x1, y1 - HEIGHT / 2 if distance else y1), (x2, y2 + HEIGHT / 2 if distance else y2),
                connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=7,
                linewidth=0.6 + 0.12 * min(count, 10), color=COLOURS[levels[here] % len(COLOURS)], alpha=0.8, zorder=1,
            )
        )  # fmt: skip
    for name, (x, y) in places.items():
        own = name in BASE
        axes.add_patch(
            FancyBboxPatch(
                (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0.0,rounding_size=0.08",
                facecolor="#eef1f4" if own else "white", edgecolor=COLOURS[levels[name] % len(COLOURS)],
                linewidth=0.6 if own else 1.1, zorder=2,
            )
        )  # fmt: skip
        axes.text(x, y, name.removeprefix("stages/"), ha="center", va="center", fontsize=8, zorder=3)
    axes.set_xlim(-7.6, 7.6)
    axes.set_ylim(-step * (len(rows) - 1) - 0.45, 0.45)
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    counted = arrows()
    figure = draw(counted)
    figure.savefig(HERE / "pictures" / "rooms.svg", metadata={"Date": None, "Creator": None})
    figure.savefig(HERE / "pictures" / "rooms.png", dpi=150, metadata={"Software": None})
    (HERE / "pictures" / "rooms.json").write_text(json.dumps(counted, indent=1) + "\n")
