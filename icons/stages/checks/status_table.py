"""`icons status`: what status.py collects as a table that stays short for thousands of chunks, or as JSON."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

from icons.config import Config
from icons.progress import say, say_json
from icons.ranges import as_ranges
from icons.stages.checks.results import lines, results
from icons.stages.checks.status import OPEN_STATES, Piece, Summary, by_checkpoint, collect_status, summarise

WATCH_SECONDS = 10.0
MOST_LINES = 8
"""Of different reasons of one state; the rest is counted."""
REASONED = ("failed", "damaged", "stale", "stopped", "running")
"""States in which a piece's detail says why."""


def print_status(config: Config, *, as_json: bool = False, watch: bool = False) -> None:
    """Prints once, or with `watch` every ten seconds until all is done.

    JSON holds `pieces`, `stages` and `results`, the fields of Piece, Summary and Result.
    """
    while True:
        pieces = collect_status(config)
        if watch and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        if as_json:
            stages = [asdict(summary) for summary in summarise(pieces)]
            found = [asdict(result) for result in results(config.output_dir)]
            say_json({"stages": stages, "pieces": [asdict(piece) for piece in pieces], "results": found})
        else:
            say("\n".join([*table(pieces), *lines(results(config.output_dir))]))
        if not watch or all(piece.state == "done" for piece in pieces):
            return
        try:
            time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return


def table(pieces: list[Piece]) -> Iterator[str]:
    """A line a stage, and below it, for each checkpoint, one for every state and error that chunks or tasks are in."""
    summaries = summarise(pieces)
    groups = by_checkpoint(pieces)
    for stage in dict.fromkeys(summary.stage for summary in summaries):
        of_stage = [piece for piece in pieces if piece.stage == stage]
        totals = [summary for summary in summaries if summary.stage == stage]
        alone = len(of_stage) == 1 and (of_stage[0].number is None or of_stage[0].state == "done")
        yield f"{stage:<12} {_count(of_stage):<10} {of_stage[0].detail if alone else _speed(totals)}".rstrip()
        for summary in totals if not alone else ():
            for state, which, detail in _open_pieces(groups[stage, summary.checkpoint]):
                yield f"  {summary.checkpoint:<6} {state:<8} {which:<20} {detail}".rstrip()
            if summary.array and of_stage[0].number is not None:
                again = f"--array={summary.array}" if shutil.which("sbatch") else f"icons {stage} or icons run"
                yield f"  {summary.checkpoint:<6} {'again':<8} {again}"


def _count(pieces: list[Piece]) -> str:
    if len(pieces) == 1 and pieces[0].number is None:
        return pieces[0].state
    return f"{sum(piece.state == 'done' for piece in pieces)}/{len(pieces)}"


def _speed(summaries: list[Summary]) -> str:
    """States, rate and time left of all checkpoints together."""
    parts = []
    for state in OPEN_STATES:
        if count := sum(summary.counts.get(state, 0) for summary in summaries):
            parts.append(f"{count} {state}")
    rate = sum(summary.rate for summary in summaries)
    left = [summary.seconds_left * summary.rate for summary in summaries if summary.seconds_left is not None]
    speed = f"; {rate:.1f} samples/s, about {_duration(sum(left) / rate)} left" if rate > 0 and left else ""
    return ", ".join(parts) + speed


def _open_pieces(pieces: list[Piece]) -> Iterator[tuple[str, str, str]]:
    """(state, which, what about them), pieces in the same state for the same reason together."""
    for state in OPEN_STATES:
        reasons: dict[str, list[Piece]] = {}
        for piece in pieces:
            if piece.state == state:
                reasons.setdefault(piece.detail if state in REASONED else "", []).append(piece)
        for number, (reason, members) in enumerate(reasons.items()):
            if number == MOST_LINES:
                more = [piece for others in list(reasons.values())[number:] for piece in others]
                yield state, _which(more), f"{len(reasons) - number} other reasons"
                break
            yield state, _which(members), ", ".join(part for part in (reason, _share(state, members)) if part)


def _which(pieces: list[Piece]) -> str:
    if pieces[0].stage == "train-grads":
        return as_ranges(piece.number for piece in pieces if piece.number is not None)
    return ", ".join(piece.name for piece in pieces)


def _share(state: str, pieces: list[Piece]) -> str:
    total = sum(piece.total for piece in pieces)
    if state not in ("running", "stopped") or total == 0:
        return ""
    where = f" on {pieces[0].host}" if state == "running" and len(pieces) == 1 else ""
    return f"{sum(piece.rows for piece in pieces)} of {total} rows{where}"


def _duration(seconds: float) -> str:
    minutes = int(seconds / 60 + 0.5)
    if minutes < 1:
        return "a minute"
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
