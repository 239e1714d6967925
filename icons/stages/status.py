"""`icons status`: what is done and what is missing, read from the manifests alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from icons.config import Config
from icons.errors import UserError
from icons.progress import say
from icons.store.files import read_json
from icons.store.index import read_index
from icons.store.layout import RunFolder
from icons.store.rows import read_manifest
from icons.store.scores import read_scores_header


@dataclass(frozen=True)
class Piece:
    """One stage, or one chunk or task of it: `state` is done, partial, missing or damaged."""

    stage: str
    name: str
    state: str
    detail: str = ""
    checkpoint: str = ""  # whose rows these are


def collect_status(config: Config) -> list[Piece]:
    folder = RunFolder(config.output_dir)
    pieces = [_warmup(config, folder)]
    for checkpoint in config.gradients.checkpoints:
        chunks = [folder.chunk(checkpoint, i, config.train.num_chunks) for i in range(config.train.num_chunks)]
        own = [_rows("train-grads", chunk.name, chunk) for chunk in chunks]
        own.append(_merged(folder.index(checkpoint)))
        own += [_rows("val-grads", task.name, folder.task(checkpoint, task.name)) for task in config.tasks]
        pieces += [replace(piece, checkpoint=str(checkpoint)) for piece in own]
    header = read_scores_header(folder.scores)
    columns = json.loads(header.get("columns", "[]"))
    state = "missing" if not header else "done" if columns == list(config.columns) else "partial"
    pieces.append(Piece("specialist", "", state, f"tasks {', '.join(columns)}" if columns else ""))
    pieces.append(_selection(folder.selection(config.selection.name), config.selection.name))
    return pieces


def print_status(config: Config, as_json: bool = False) -> None:
    """A table, or with `as_json` a list of {stage, name, state, detail, checkpoint}."""
    pieces = collect_status(config)
    if as_json:
        say(json.dumps([asdict(piece) for piece in pieces], indent=1))
        return
    for stage in dict.fromkeys(piece.stage for piece in pieces):
        own = [piece for piece in pieces if piece.stage == stage]
        done = sum(piece.state == "done" for piece in own)
        count = f"{done}/{len(own)}" if len(own) > 1 else own[0].state
        say(f"{stage:<12} {count:<10} {own[0].detail if len(own) == 1 else ''}".rstrip())
        for piece in own if len(own) > 1 else []:
            if piece.state != "done":
                say(f"  {piece.checkpoint} {piece.name:<22} {piece.state:<9} {piece.detail}".rstrip())


def _warmup(config: Config, folder: RunFolder) -> Piece:
    if config.model.adapter is not None:
        return Piece("warmup", "", "done", f"model.adapter gives {config.model.adapter}")
    marker = folder.warmup / "manifest.json"
    if not marker.is_file():
        return Piece("warmup", "", "missing")
    try:
        found: Any = read_json(marker)
        complete, steps = bool(found["complete"]), found["steps"]
    except (UserError, KeyError, TypeError) as error:
        return Piece("warmup", "", "damaged", f"{marker}: {error}")
    checkpoints = [path.parent.name for path in folder.warmup.glob("checkpoint-*/complete")]
    newest = max(checkpoints, key=lambda name: int(name.removeprefix("checkpoint-")), default="no checkpoint yet")
    done = complete and (folder.warmup / "final").is_dir()
    return Piece("warmup", "", "done" if done else "partial", f"{steps} steps, {newest}")


def _rows(stage: str, name: str, folder: Path) -> Piece:
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return Piece(stage, name, "damaged", str(error))
    if manifest is None:
        return Piece(stage, name, "missing")
    finished = manifest.rows_done
    invalid = sum(shard.invalid for shard in manifest.shards)
    detail = f"{finished} of {manifest.stop - manifest.start} rows" + (f", {invalid} invalid" if invalid else "")
    if manifest.seconds > 0:
        detail += f", {finished / manifest.seconds:.1f} samples/s"
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            return Piece(stage, name, "damaged", f"{shard.file} is gone or cut off")
    return Piece(stage, name, "done" if manifest.complete else "partial", detail)


def _merged(path: Path) -> Piece:
    if not path.is_file():
        return Piece("merge", "", "missing")
    try:
        index = read_index(path)
    except UserError as error:
        return Piece("merge", "", "damaged", str(error))
    return Piece("merge", "", "done", f"{index.num_rows} rows in {len(index.shards)} shards")


def _selection(folder: Path, name: str) -> Piece:
    path = folder / "selected_indices.json"
    if not path.is_file():
        return Piece("generalist", name, "missing")
    try:
        found: Any = read_json(path)
        return Piece("generalist", name, "done", f"{name}: {len(found['indices'])} of {found['num_train']} selected")
    except (UserError, KeyError, TypeError) as error:
        return Piece("generalist", name, "damaged", f"{path}: {error}")
