"""How a training went: log.jsonl, one line every few steps, and its loss as a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from icons.store.files import write_bytes

NUMBERS = ("step", "loss", "learning_rate")
"""What every line has, and the plot shows."""


class TrainingLog:
    """log.jsonl and loss.png in `folder`; lines of an earlier process behind step `reached` are dropped.

    A line has step, loss (mean over the global batch's predicted tokens, over the steps since the line before),
    learning_rate, epoch, samples_per_second and tokens_per_second (padding not counted), of all processes together.
    """

    def __init__(self, folder: Path, reached: int) -> None:
        self.folder, self.path = folder, folder / "log.jsonl"
        self.entries = [entry for entry in read_log(self.path) if entry["step"] <= reached]
        write_bytes(self.path, *(_line(entry) for entry in self.entries))

    def add(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        with self.path.open("ab") as file:
            file.write(_line(entry))

    def plot(self) -> None:
        write_bytes(self.folder / "loss.png", loss_plot(self.entries))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, up to the first that was cut off or damaged."""
    if not path.is_file():
        return []
    entries: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), int | float) for key in NUMBERS):
            break
        entries.append(entry)
    return entries


def loss_plot(entries: list[dict[str, Any]]) -> bytes:
    """The loss over the steps as PNG, the learning rate faintly behind it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [entry["step"] for entry in entries]
    rate = axes.twinx()
    rate.plot(steps, [entry["learning_rate"] for entry in entries], color="0.8", linewidth=1)
    rate.set_ylabel("learning rate", color="0.6")
    rate.set_ylim(bottom=0)
    axes.set_zorder(rate.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(steps, [entry["loss"] for entry in entries], linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per token")
    axes.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _line(entry: dict[str, Any]) -> bytes:
    return (json.dumps(entry) + "\n").encode()
