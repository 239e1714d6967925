"""How it was made: the warm-up's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icons.report.drawing import ALL, CHOSEN, MUTED, Shown, Table, axes_in, bare, new_figure
from icons.report.legend import line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LISTED = 40
_LOSS: Any = {"color": CHOSEN, "linewidth": 1.6}
_RATE: Any = {"color": ALL, "linewidth": 1.2, "linestyle": (0, (4, 2))}


def warmup_figure(entries: list[dict[str, Any]]) -> Shown | None:
    """From the lines of log.jsonl; None for fewer than two."""
    if len(entries) < 2:
        return None
    tail = entries[-max(1, len(entries) // 5) :]
    end = sum(entry["loss"] for entry in tail) / len(tail)
    text = (
        f"Blue: the loss per predicted token, from {entries[0]['loss']:.3f} at step {entries[0]['step']} to "
        f"{end:.3f} over the last {len(tail)} of {len(entries)} entries. Grey: the learning rate, at most "
        f"{max(entry['learning_rate'] for entry in entries):.2g}."
    )
    step = -(-len(entries) // _MOST_LISTED)
    rows = [[f"{e['step']:,}", f"{e['loss']:.4f}", f"{e['learning_rate']:.2e}"] for e in entries[::step]]
    return Shown(
        "warmup",
        "The warm-up",
        text,
        Table(["Step", "Loss", "Learning rate"], rows),
        lambda width: _draw(entries, width),
        (line("loss per token (left)", **_LOSS), line("learning rate (right)", **_RATE)),
    )


def _draw(entries: list[dict[str, Any]], width: float) -> Figure:
    figure = new_figure(width, 2.3)
    axes = axes_in(figure, 0.5, 0.62, 0.12, 0.43)
    bare(axes, grid="y")
    steps = [entry["step"] for entry in entries]
    rate = axes.twinx()
    bare(rate)
    rate.plot(steps, [entry["learning_rate"] for entry in entries], **_RATE)
    rate.set_ylim(bottom=0)
    rate.locator_params(axis="y", nbins=3)
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:.1e}" if value else "0")
    axes.set_zorder(rate.get_zorder() + 1)
    axes.plot(steps, [entry["loss"] for entry in entries], **_LOSS)
    axes.set_xlabel("step", color=MUTED)
    axes.locator_params(axis="y", nbins=4)
    return figure
