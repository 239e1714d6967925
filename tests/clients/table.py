"""The tables of docs/clients.md, from the last run's results: `python -m tests.clients.table` writes them there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "clients.json"
PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- from benchmarks/results/clients.json -->\n", "<!-- end -->"


def tables(results: dict[str, Any]) -> str:
    return "\n".join([*_last(results), "", *_readings(results), "", *_differences(results), ""])


def _last(results: dict[str, Any]) -> list[str]:
    lines = ["| program | versions | date | hardware | steps trained | loss |", "|---|---|---|---|---|---|"]
    for name, own in results.items():
        numbers = ", ".join(f"{package} {number}" for package, number in own["versions"].items())
        steps = own.get("steps", "none: it evaluates")
        losses = ", ".join(f"{loss:.2f}" for loss in own.get("losses", []))
        lines.append(f"| {name} | {numbers} | {own['date']} | {own['hardware']} | {steps} | {losses} |")
    return lines


def _readings(results: dict[str, Any]) -> list[str]:
    lines = [
        "| program | template | rows | images | ids | labels | tokens predicted | pixels: largest, mean difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, own in results.items():
        for setting, read in own["read"].items():
            of = read["rows_of_icons"]
            counts = [f"{read[key]} of {of}" for key in ("rows", "images", "ids")]
            counts += [f"{read[key]} of {of}" if "steps" in own else "" for key in ("labels", "predicted")]
            pixels = f"{read['pixels_most']:.3g}, {read['pixels_mean']:.3g}"
            lines.append(f"| {name} | {setting} | {' | '.join(counts)} | {pixels} |")
    return lines


def _differences(results: dict[str, Any]) -> list[str]:
    lines = [
        "| program | template | behind | vicuna_v1 has | the program has | so often |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in results.items():
        for setting, read in own["read"].items():
            if not read["differences"]:
                lines.append(f"| {name} | {setting} | | no difference | | |")
            for before, ours, theirs, count in read["differences"]:
                cells = (f"`{text}`" if text else "" for text in (before or "(the beginning)", ours, theirs))
                lines.append(f"| {name} | {setting} | {' | '.join(cells)} | {count} |")
    return lines


def written(page: str, results: dict[str, Any]) -> str:
    """The page with the tables between its two marks."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: f"{BEGIN}\n{tables(results)}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), json.loads(RESULTS.read_text())))
