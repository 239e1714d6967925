"""Reasons to doubt a selection: what its numbers say about the tasks, the warm-up, the noise and the ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icons.report.findings import Finding
from icons.report.material import Material
from icons.selection.shares import nearest_tasks, passed_over, shared_out

FEW_STEPS, FEW_SAMPLES = 50, 20
DECIDED_BY_TIES = 1 / 3
NEAR_CHANCE = 1.5
"""Agreement of two halves below so many times that of chance is no agreement to speak of."""


def doubts(m: Material, log: Sequence[Mapping[str, Any]], steps: int | None) -> list[Finding]:
    """`log` and `steps` are the warm-up's (None: another adapter)."""
    entries = [_shares(m), _copies(m), _samples(m)]
    if any(m.noise):
        entries.append(_noise(m))
    if steps is not None:
        entries.append(_warmup(log, steps))
    return [finding for finding in entries if finding is not None]


def _shares(m: Material) -> Finding | None:
    if len(m.tasks) < 2:
        return None
    counts = shared_out(nearest_tasks(m.scores.scores, m.valid), np.flatnonzero(m.focus.selected), len(m.tasks))
    even = m.focus.size / len(m.tasks)
    low, high = int(np.argmin(counts)), int(np.argmax(counts))
    text = (
        "Each sample counted for the task in whose ranking it stands highest: "
        f"“{m.tasks[high]}” gets {counts[high]:,}, “{m.tasks[low]}” {counts[low]:,}; an even share would be "
        f"{even:,.0f}."
    )
    few = [m.tasks[number] for number in passed_over(counts)]
    if few:
        text += f" Less than half of that: “{'”, “'.join(few)}”. The method proportional gives each task its share."
    return Finding("Tasks", text, not few)


def _copies(m: Material) -> Finding | None:
    copies = m.focus.head.get("copies")
    if not isinstance(copies, Mapping):
        return None
    count = int(copies["rows"])
    if not count:
        return Finding("Copies", "No sample of the selection repeats another one’s pictures and conversation.", True)
    alike, compared = copies.get("gradients_alike"), copies.get("gradients_compared", count)
    text = f"{count:,} of the {m.focus.size:,} selected repeat another one’s pictures and conversation"
    if alike is None:
        text += "."
    elif compared == count:
        text += f"; the gradients of {alike:,} have a cosine above 0.99 with it."
    else:
        text += f"; of {compared:,} whose gradients were compared, {alike:,} have a cosine above 0.99 with it."
    return Finding("Copies", text, 20 * count <= m.focus.size)


def _samples(m: Material) -> Finding | None:
    few = {task: count for task, count in m.samples.items() if count < FEW_SAMPLES}
    if not m.samples:
        return None
    if not few:
        least = min(m.samples, key=m.samples.__getitem__)
        text = f"Every task has {m.samples[least]:,} valid validation samples or more."
        return Finding("Validation samples", text, True)
    named = ", ".join(f"“{task}” {count}" for task, count in few.items())
    return Finding("Validation samples", f"Few to judge a task by: {named}. Give each {FEW_SAMPLES} or more.", False)


def _noise(m: Material) -> Finding:
    """Of each task's top, the part whose score is above the threshold by less than the projection's noise."""
    close = []
    for column, tau, size in zip(m.scores.scores.T, m.tau, m.noise, strict=True):
        over = column[m.valid & (column >= tau)].astype(np.float64) - tau
        close.append(float((over < size).mean()) if len(over) else 0.0)
    worst = int(np.argmax(close))
    text = (
        f"The projection’s noise is about {m.noise[worst]:.4f} of a mean cosine for “{m.tasks[worst]}”; "
        f"{close[worst]:.0%} of its top is above the threshold by less than that"
    )
    if close[worst] <= 0.5:
        return Finding("Noise", f"{text}, and of no task more.", True)
    many = sum(part > 0.5 for part in close)
    return Finding(
        "Noise", f"{text}: chance decides there. So it is for {many} of {len(close)} tasks; raise gradients.dim.", False
    )


def _warmup(log: Sequence[Mapping[str, Any]], steps: int) -> Finding:
    losses = [float(entry["loss"]) for entry in log if "loss" in entry]
    part = max(1, len(losses) // 5)
    fell = len(losses) < 2 or np.mean(losses[-part:]) < np.mean(losses[:part])
    text = f"The warm-up had {steps:,} steps"
    if len(losses) >= 2:
        text += f"; its loss went from {np.mean(losses[:part]):.3f} to {np.mean(losses[-part:]):.3f}"
    if steps < FEW_STEPS:
        return Finding(
            "Warm-up",
            f"{text}. Under {FEW_STEPS} the model has hardly met the data: raise warmup.fraction or warmup.epochs.",
            False,
        )
    if not fell:
        return Finding("Warm-up", f"{text}: it did not fall. Look at warmup.learning_rate.", False)
    return Finding("Warm-up", f"{text}.", True)
