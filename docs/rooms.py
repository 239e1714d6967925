"""Draws the rooms of the house and the imports between them: python docs/rooms.py

Writes pictures/rooms.svg and rooms.png beside this file, and rooms.json with every arrow, which tests/test_rooms.py
compares with the imports as they are. An arrow over several floors gets a place of its own on each floor between,
so that it runs beside the boxes; the order on a floor is the one with the fewest crossings found.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.test_rooms import FLOORS, STAGES, room_arrows  # noqa: E402

BASE = FLOORS[-1]
WIDTH, HEIGHT, STEP, LANE, GAP = 2.0, 0.46, 1.0, 0.3, 0.24
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0578d", "#9a7209", "#3f6f9f", "#7a5195", "#444444", "#2f6f6f")

Arrow = tuple[str, str]
Node = str | tuple[Arrow, int]  # a room, or the place of an arrow on a floor that it passes


def shortest(arrows: set[Arrow]) -> list[Arrow]:
    """Without the arrows that also lead by way of other rooms."""
    below: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        if name not in below:
            others = {there for here, there in arrows if here == name}
            below[name] = others.union(*map(reached, others))
        return below[name]

    by_way = {(here, end) for here, there in arrows for end in reached(there)}
    return sorted(arrows - by_way)


def floors() -> list[list[str]]:
    """From the top, the rooms of `stages` on floors of their own, without the lowest floor."""
    rows: list[list[str]] = []
    for floor in FLOORS[:-1]:
        stages = [[f"stages/{name}" for name in stage] for stage in STAGES]
        rows += stages if floor == ("stages",) else [[name for name in floor if name != "__main__"]]
    return rows


def lines_of(arrows: list[Arrow], rows: list[list[str]]) -> dict[Arrow, list[Node]]:
    """What an arrow runs through, floor by floor."""
    level = {name: at for at, names in enumerate(rows) for name in names}
    return {
        arrow: [arrow[0], *((arrow, at) for at in range(level[arrow[0]] + 1, level[arrow[1]])), arrow[1]]
        for arrow in arrows
    }


def ordered(rows: list[list[str]], lines: dict[Arrow, list[Node]]) -> list[list[Node]]:
    """Each floor from left to right: the best of many starts, each improved by exchanging neighbours."""
    level = {name: at for at, names in enumerate(rows) for name in names}
    steps: list[list[tuple[Node, Node]]] = [[] for _ in rows]
    beside = [arrow for arrow in lines if level[arrow[0]] == level[arrow[1]]]
    places: list[list[Node]] = [list(names) for names in rows]
    for arrow, line in lines.items():
        for at, node in enumerate(line[1:-1], level[arrow[0]] + 1):
            places[at].append(node)
        for at, step in enumerate(pairwise(line), level[arrow[0]]):
            if arrow not in beside:
                steps[at].append(step)

    def cost(order: list[list[Node]]) -> float:
        at = {node: (number - (len(names) - 1) / 2) for names in order for number, node in enumerate(names)}
        crossings = sum(
            (at[a] - at[c]) * (at[b] - at[d]) < 0 for floor in steps for (a, b), (c, d) in combinations(floor, 2)
        )
        length = sum(abs(at[a] - at[b]) for floor in steps for a, b in floor)
        return 10 * crossings + length + 20 * sum(abs(at[a] - at[b]) - 1 for a, b in beside)

    draws, best, least = random.Random(0), places, float("inf")
    for _ in range(30):
        order = [draws.sample(names, len(names)) for names in places]
        now, improved = cost(order), True
        while improved:
            improved = False
            for names in order:
                for first, second in combinations(range(len(names)), 2):
                    names[first], names[second] = names[second], names[first]
                    if (then := cost(order)) < now:
                        now, improved = then, True
                    else:
                        names[first], names[second] = names[second], names[first]
        if now < least:
            best, least = order, now
    return best


def placed(order: list[list[Node]], lines: dict[Arrow, list[Node]]) -> dict[Node, tuple[float, float]]:
    """Middle of each room and lane: drawn towards what it is joined to, beside its neighbours."""
    joined: dict[Node, list[Node]] = {node: [] for names in order for node in names}
    for line in lines.values():
        for a, b in pairwise(line):
            weight = 1 + 7 * sum(not isinstance(node, str) for node in (a, b))  # lanes are to be straight
            joined[a] += [b] * weight
            joined[b] += [a] * weight

    def apart(left: Node, right: Node) -> float:
        return sum(WIDTH / 2 if isinstance(node, str) else LANE / 2 for node in (left, right)) + GAP

    x = {node: 1.2 * (at - (len(names) - 1) / 2) for names in order for at, node in enumerate(names)}
    for _ in range(600):
        for names in order:
            wished = [sum(x[other] for other in joined[node]) / max(1, len(joined[node])) for node in names]
            right, left = wished[:], wished[:]
            for at in range(1, len(names)):
                right[at] = max(right[at], right[at - 1] + apart(names[at - 1], names[at]))
            for at in range(len(names) - 2, -1, -1):
                left[at] = min(left[at], left[at + 1] - apart(names[at], names[at + 1]))
            for node, low, high in zip(names, left, right, strict=True):
                x[node] = (low + high) / 2
    return {node: (x[node], -level * STEP) for level, names in enumerate(order) for node in names}


def ports(lines: dict[Arrow, list[Node]], at: dict[Node, tuple[float, float]]) -> dict[tuple[Arrow, str], float]:
    """Where on its box an arrow begins and ends, so that no two meet before their time."""
    spread: dict[tuple[Arrow, str], float] = {}
    for side, end, beyond in (("from", 0, 1), ("to", -1, -2)):
        for name in {line[end] for line in lines.values()}:
            here = [arrow for arrow, line in lines.items() if line[end] == name and at[line[0]][1] > at[line[-1]][1]]
            here.sort(key=lambda arrow: at[lines[arrow][beyond]][0])
            for number, arrow in enumerate(here):
                spread[arrow, side] = at[name][0] + 0.3 * (number - (len(here) - 1) / 2)
    return spread


def draw(counts: dict[Arrow, int]) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "rooms", "svg.fonttype": "none", "font.family": "DejaVu Sans"}
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Curve

    rows = floors()
    lines = lines_of(shortest(set(counts)), rows)
    order = ordered(rows, lines)
    at = placed(order, lines)
    spread = ports(lines, at)
    level = {name: number for number, names in enumerate(rows) for name in names}
    colour = {name: COLOURS[number % len(COLOURS)] for name, number in level.items()}

    left, right = (extreme(x for x, _ in at.values()) for extreme in (min, max))
    middle, half = (left + right) / 2, max((right - left) / 2 + WIDTH / 2, len(BASE) * 0.62) + 0.3
    bottom = -len(rows) * STEP - 0.15
    figure = Figure(figsize=(10, 10 * (0.9 - bottom) / (2 * half)))
    axes = figure.add_axes((0, 0, 1, 1))

    def box(x: float, y: float, width: float, height: float, order: int, **look: Any) -> None:
        shape = "round,pad=0,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, shape, zorder=order, **look))

    stages = [name for name in level if name.startswith("stages/")]
    inside = [node for names in order[level[stages[0]] : level[stages[-1]] + 1] for node in names]
    low = min(at[node][0] - (WIDTH / 2 if node in level else LANE) for node in inside) - 0.25
    high = max(at[node][0] + (WIDTH / 2 if node in level else LANE) for node in inside) + 0.25
    top, floor = at[stages[0]][1] + 0.42, at[stages[-1]][1] - 0.4
    box((low + high) / 2, (top + floor) / 2, high - low, top - floor, 0, facecolor="#f3f5f8", edgecolor="#c9d1d9")
    axes.text(low + 0.12, top - 0.12, "stages", fontsize=9, color="#59636e", va="top")

    for arrow, line in lines.items():
        here, there = at[arrow[0]], at[arrow[1]]
        if here[1] == there[1]:
            toward = 1 if there[0] > here[0] else -1
            points = [(here[0] + toward * WIDTH / 2, here[1]), (there[0] - toward * WIDTH / 2, there[1])]
            curve = Curve(points, [Curve.MOVETO, Curve.LINETO])
        else:
            points = [(spread[arrow, "from"], here[1] - HEIGHT / 2), *(at[node] for node in line[1:-1])]
            points.append((spread[arrow, "to"], there[1] + HEIGHT / 2))
            vertices, codes = [points[0]], [Curve.MOVETO]
            for (x1, y1), (x2, y2) in pairwise(points):
                bend = (y1 - y2) / 2
                vertices += [(x1, y1 - bend), (x2, y2 + bend), (x2, y2)]
                codes += [Curve.CURVE4] * 3
            curve = Curve(vertices, codes)
        wide = 0.7 + 0.35 * counts[arrow] ** 0.5
        look = {"color": colour[arrow[0]], "linewidth": wide, "mutation_scale": 8 + wide, "shrinkA": 0, "shrinkB": 1}
        axes.add_patch(FancyArrowPatch(path=curve, arrowstyle="-|>", fill=True, zorder=1, capstyle="butt", **look))
    for name in level:
        x, y = at[name]
        box(x, y, WIDTH, HEIGHT, 2, facecolor="white", edgecolor=colour[name], linewidth=1.3)
        axes.text(x, y, name.removeprefix("stages/"), ha="center", va="center", fontsize=8.5, zorder=3)
    wide = (2 * half - 0.3) / len(BASE)
    for number, name in enumerate(BASE):
        x = middle + (number - (len(BASE) - 1) / 2) * wide
        box(x, bottom, wide - 0.12, 0.42, 2, facecolor="#eef1f4", edgecolor="#8b949e", linewidth=0.8)
        axes.text(x, bottom, name, ha="center", va="center", fontsize=9, zorder=3)
    axes.text(middle, bottom + 0.42, "used by all", ha="center", va="center", fontsize=9, color="#59636e")
    axes.set_xlim(middle - half, middle + half)
    axes.set_ylim(bottom - 0.45, 0.45)
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    counted = room_arrows()
    picture = draw({(arrow.split(" -> ")[0], arrow.split(" -> ")[1]): count for arrow, count in counted.items()})
    folder = HERE / "pictures"
    picture.savefig(folder / "rooms.svg", metadata={"Date": None, "Creator": None})
    picture.savefig(folder / "rooms.png", dpi=150, metadata={"Software": None})
    (folder / "rooms.json").write_text(json.dumps(counted, indent=1) + "\n")
