"""How it was made: time and throughput of the stages, hardware and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icons.report.drawing import Table


@dataclass(frozen=True)
class StageTime:
    """What a stage did in how many seconds, summed over devices (None: it noted none); `rate` in `unit` a second."""

    stage: str
    work: str
    seconds: float | None = None
    rate: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Provenance:
    """`skipped`: where -> the reasons of its bad records; `log`: the warm-up's entries.

    `machines`: what computed something, and which stages, in their order. `made_of` is the fingerprint of the training
    rows.
    """

    times: Sequence[StageTime]
    machines: Sequence[tuple[Mapping[str, str], Sequence[str]]]
    skipped: Mapping[str, Sequence[str]]
    log: list[dict[str, Any]]
    made_of: Mapping[str, Any]


def times_note(times: Sequence[StageTime]) -> str:
    by_log = any(each.stage == "warm-up" and each.seconds for each in times)
    return (
        "Time is that of the work itself, summed over devices, without the loading of models"
        f"{', and the warm-up’s is by its log' if by_log else ''}."
    )


def times_table(times: Sequence[StageTime]) -> Table:
    rows = [
        [
            each.stage,
            each.work,
            "not noted" if each.seconds is None else duration(each.seconds),
            "" if each.rate is None else f"{each.rate:,.1f} {each.unit}/s",
        ]
        for each in times
    ]
    return Table(["Stage", "Work", "Time", "Throughput"], rows, words=(1,))


def machines_table(machines: Sequence[tuple[Mapping[str, str], Sequence[str]]], here: Mapping[str, str]) -> Table:
    """`here` is what made the page."""
    lines = [*((machine, ", ".join(stages)) for machine, stages in machines), (here, "this page")]
    names = list(dict.fromkeys(name for machine, _ in lines for name in machine if name != "device"))
    rows = [
        [what, str(machine.get("device", "–")), *(str(machine.get(name, "–")) for name in names)]
        for machine, what in lines
    ]
    return Table(["For", "Device", *names], rows, words=(1,))


def fingerprint_table(made_of: Mapping[str, Any], scores: str, selection: str) -> Table:
    rows = [[key.replace("_", " "), "–" if value is None else str(value)] for key, value in made_of.items()]
    return Table(["Field", "Value"], [*rows, ["scores", scores], ["selection", selection]], words=(1,))


def duration(seconds: float) -> str:
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 120 else f"{hours:.1f} h"
