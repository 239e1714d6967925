"""How far a run is: what is done, running, failed and missing, read from manifests and heartbeats alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icons.config import Config
from icons.errors import UserError
from icons.plain import in_line
from icons.ranges import as_ranges
from icons.stages.specialist.described import described, difference, val_type
from icons.store.checkpoints import checkpoints
from icons.store.files import read_sealed
from icons.store.heartbeat import Beat, file_system_now, read_beat
from icons.store.index import read_index
from icons.store.layout import INDICES, RunFolder
from icons.store.rows import Manifest, read_manifest
from icons.store.scores import read_scores_header

OPEN_STATES = ("running", "failed", "stopped", "damaged", "stale", "missing")
"""States of a chunk or task that is not done; stopped: begun, and nothing is computing it; stale: of other inputs."""
HUNG_SECONDS = 600.0


@dataclass(frozen=True)
class Piece:
    """One stage, or one chunk or task of it: `state` is done, partial (a stage begun) or one of OPEN_STATES.

    `number` is the chunk's, or the task's place in the config: its index in a Slurm array. `rows` of `total` are
    done (0 of 0 where nothing is known yet); `rate` in rows a second, now if it is running, else over the finished
    rows; `host` and `job` (Slurm's id) computed it last.
    """

    stage: str
    name: str
    state: str
    detail: str = ""
    checkpoint: str = ""  # whose rows these are
    number: int | None = None
    rows: int = 0
    total: int = 0
    rate: float = 0.0
    host: str = ""
    job: str = ""


@dataclass(frozen=True)
class Summary:
    """A stage at one checkpoint: how many pieces are in each state, rows a second of those running, time left.

    `seconds_left` None: nothing is running, or no rate is known. `array` lists what nobody is computing and is not
    done, as `sbatch --array=` takes it.
    """

    stage: str
    checkpoint: str
    counts: dict[str, int]
    rate: float
    seconds_left: float | None
    array: str


def collect_status(config: Config) -> list[Piece]:
    """Every piece of the run; what was made of other inputs than the config names by now is stale, and says why."""
    folder = RunFolder(config.output_dir)
    now = file_system_now(folder.root)
    pieces = [_warmup(config, folder)]
    asked = described(config)
    for checkpoint in config.gradients.checkpoints:
        lines = []
        train = {**asked, "adapter": asked.get(f"adapter {checkpoint}")}
        for number, task in enumerate(config.tasks):
            piece = _rows("val-grads", task.name, number, folder.task(checkpoint, task.name), now)
            kind = val_type(config.gradients.type)
            lines.append(_fitting(*piece, {**train, "data": asked.get(f"task {task.name}"), "gradient_type": kind}))
        for number in range(config.train.num_chunks):
            chunk = folder.chunk(checkpoint, number, config.train.num_chunks)
            lines.append(_fitting(*_rows("train-grads", chunk.name, number, chunk, now), train))
        lines.append(_fitting(*_merged(folder.index(checkpoint)), train))
        pieces += [replace(piece, checkpoint=str(checkpoint)) for piece in lines]
    scored, fingerprint = _scored(config, folder.scores, asked)
    pieces.append(scored)
    pieces.append(_selection(folder.selection(config.selection.name), config.selection.name, fingerprint))
    return pieces


def _fitting(piece: Piece, made_of: Mapping[str, object], asked: Mapping[str, object]) -> Piece:
    """The piece, stale where what it was made of is not what the config asks for."""
    told = {field: value for field, value in asked.items() if value is not None or field in ("dim", "projection_seed")}
    other = difference(made_of, told) if made_of else None
    return piece if other is None else replace(piece, state="stale", detail=other)


def _scored(config: Config, path: Path, asked: Mapping[str, object]) -> tuple[Piece, str]:
    """The specialist's piece, and the fingerprint of the scores; their numbers are not read."""
    header = read_scores_header(path)
    if not header:
        state = "damaged" if path.is_file() else "missing"
        return Piece("specialist", "", state, f"{path} has no readable header" if path.is_file() else ""), ""
    try:
        columns = json.loads(header["columns"])
        detail = f"tasks {in_line(', '.join(columns), 300)}"
        made_of: Any = json.loads(header["asked"])
        piece = Piece("specialist", "", "done" if columns == list(config.columns) else "partial", detail)
        return _fitting(piece, made_of, asked), str(header["fingerprint"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return Piece("specialist", "", "damaged", f"the header of {path}"), ""


def summarise(pieces: list[Piece]) -> list[Summary]:
    """One a stage and checkpoint, in the order of the stages."""
    groups = by_checkpoint(pieces)
    stages = {stage: at for at, stage in enumerate(dict.fromkeys(piece.stage for piece in pieces))}
    summaries = []
    for (stage, checkpoint), members in sorted(groups.items(), key=lambda group: stages[group[0][0]]):
        states = [piece.state for piece in members]
        rate = sum(piece.rate for piece in members if piece.state == "running")
        left = _rows_left(members)
        again = [p.number for p in members if p.number is not None and p.state not in ("done", "running")]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        seconds = left / rate if rate > 0 and left is not None else None
        summaries.append(Summary(stage, checkpoint, counts, rate, seconds, as_ranges(again)))
    return summaries


def by_checkpoint(pieces: list[Piece]) -> dict[tuple[str, str], list[Piece]]:
    """Stage and checkpoint -> its pieces."""
    groups: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault((piece.stage, piece.checkpoint), []).append(piece)
    return groups


def _rows_left(pieces: list[Piece]) -> float | None:
    """A piece not begun is taken to hold as many rows as the others do on average."""
    sized = [piece for piece in pieces if piece.total > 0]
    if not sized:
        return None
    mean = sum(piece.total for piece in sized) / len(sized)
    return sum(piece.total - piece.rows for piece in sized) + mean * (len(pieces) - len(sized))


def _warmup(config: Config, folder: RunFolder) -> Piece:
    if config.model.adapter is not None:
        return Piece("warmup", "", "done", f"model.adapter gives {config.model.adapter}")
    marker = folder.warmup / "manifest.json"
    if not marker.is_file():
        return Piece("warmup", "", "missing")
    try:
        manifest: Any = read_sealed(marker, "run `icons warmup` again")
        complete, steps = bool(manifest["complete"]), int(manifest["steps"])
    except (UserError, KeyError, TypeError, ValueError) as error:
        return Piece("warmup", "", "damaged", in_line(error, 300))
    newest = next((path.name for path in reversed(checkpoints(folder.warmup))), "no checkpoint yet")
    done = complete and (folder.warmup / "final").is_dir()
    return Piece("warmup", "", "done" if done else "partial", f"{steps} steps, {newest}")


def _rows(stage: str, name: str, number: int, folder: Path, now: float) -> tuple[Piece, Mapping[str, object]]:
    """The piece, and what its rows were made of."""
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return Piece(stage, name, "damaged", in_line(error, 300), number=number), {}
    piece = Piece(stage, name, "missing", number=number)
    if manifest is not None:
        piece = _from_manifest(piece, manifest)
        for shard in manifest.shards:
            path = folder / shard.file
            if not path.is_file() or path.stat().st_size != shard.bytes:
                piece = replace(piece, state="damaged", detail=f"{shard.file} is gone or cut off")
                break
    beat = None if piece.state == "done" else read_beat(folder, now)
    return (piece if beat is None else _from_beat(piece, beat)), manifest.fingerprint if manifest else {}


def _from_manifest(piece: Piece, manifest: Manifest) -> Piece:
    finished, total = manifest.rows_done, manifest.stop - manifest.start
    rate = finished / manifest.seconds if manifest.seconds > 0 else 0.0
    piece = replace(piece, rows=finished, total=total, rate=rate)
    if not manifest.complete:
        return replace(piece, state="stopped")
    invalid = sum(shard.invalid for shard in manifest.shards)
    detail = (
        f"{finished} rows" + (f", {invalid} invalid" if invalid else "") + (f", {rate:.1f} samples/s" if rate else "")
    )
    return replace(piece, state="done", detail=detail)


def _from_beat(piece: Piece, beat: Beat) -> Piece:
    piece = replace(piece, total=beat.total or piece.total, host=beat.host, job=beat.job)
    if beat.alive:
        hung = "no new row for ten minutes or more" if beat.idle >= HUNG_SECONDS else ""
        return replace(piece, state="running", detail=hung, rows=max(beat.rows, piece.rows), rate=beat.rate)
    if beat.state == "failed":
        return replace(piece, state="failed", detail=beat.error)
    if piece.state == "damaged":
        return piece
    ended = f"by {beat.error}" if beat.state == "stopped" else f"no sign of life from {beat.host}"
    return replace(piece, state="stopped", detail=ended)


def _merged(path: Path) -> tuple[Piece, Mapping[str, object]]:
    if not path.is_file():
        return Piece("merge", "", "missing"), {}
    try:
        index = read_index(path)
    except UserError as error:
        return Piece("merge", "", "damaged", in_line(error, 300)), {}
    return Piece("merge", "", "done", f"{index.num_rows} rows in {len(index.shards)} shards"), index.fingerprint


def _selection(folder: Path, name: str, scores: str) -> Piece:
    """`scores` is the fingerprint of those that are there."""
    path = folder / INDICES
    if not path.is_file():
        return Piece("generalist", name, "missing")
    try:
        head = read_sealed(path, f"run `icons generalist` with selection.name {name} again")
        detail = f"{name}: {len(head['indices'])} of {head['num_train']} selected"
        stale = bool(scores) and head["scores"] != scores
    except (UserError, KeyError, TypeError) as error:
        return Piece("generalist", name, "damaged", in_line(error, 300))
    if stale:
        return Piece("generalist", name, "stale", f"{name} is of earlier scores; run `icons generalist`")
    return Piece("generalist", name, "done", detail)
