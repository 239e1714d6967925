"""`icons finetune`: the final run, a fresh LoRA and the projector on the selection, or on what it is compared with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from icons.config import Config
from icons.errors import UserError
from icons.progress import say
from icons.stages.training.fit import Job, replace_folder, train
from icons.store.files import read_json, write_json
from icons.store.fingerprint import Fingerprint, digest, file_digest
from icons.store.layout import INDICES, RunFolder
from icons.store.lock import only_one_process

CHECKPOINTS_KEPT = 2  # the newest; at LLaVA-1.5-7B's size each takes 4 GB


@dataclass(frozen=True)
class Part:
    """Which rows are trained on: their default name, what decides them, and themselves once N is known."""

    name: str
    made_of: Fingerprint
    rows: Callable[[int], list[int]]


def finetune(config: Config, part: Part, name: str | None = None, *, merged: bool = False) -> None:
    """Leaves finetune/<name>/: checkpoints, final/, log.jsonl, loss.png; with `merged` also merged/."""
    name = part.name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise UserError(f"--name {name!r}: expected letters, digits, dots, dashes and underscores, as in {part.name!r}")
    job = Job(
        title=f"finetune {name}",
        command="finetune",
        folder=RunFolder(config.output_dir).finetune(name),
        settings=config.finetune,
        rows=part.rows,
        made_of=part.made_of,
        keep=CHECKPOINTS_KEPT,
        optimizer_in_final=False,
    )
    if train(config, job) and merged:
        _merge(config, job)


def choose(config: Config, indices: Path | None, everything: bool, random_seed: int | None) -> Part:
    """The selection, unless one of the options asks for something else; a UserError when two do."""
    asked = {"--indices": indices is not None, "--everything": everything, "--random": random_seed is not None}
    options = [option for option, used in asked.items() if used]
    if len(options) > 1:
        raise UserError(f"{' and '.join(options)} exclude each other; give one, or none for the selection")
    if everything:
        return Part("everything", {"rows": "everything"}, lambda num_rows: list(range(num_rows)))
    path = indices or RunFolder(config.output_dir).selection(config.selection.name) / INDICES
    if indices is None and not path.is_file():
        raise UserError(
            f"{path} does not exist; run `icons generalist` first, or choose with --indices FILE or --everything"
        )
    listed, num_train, data = read_indices(path)
    if random_seed is not None:
        return _random(len(listed), random_seed)

    def rows(num_rows: int) -> list[int]:
        if num_train is not None and num_train != num_rows:
            raise UserError(f"{path} was made of {num_train} records, {config.train.data} has {num_rows}")
        if data is not None and data != file_digest(config.train.data)[:16]:
            raise UserError(f"{path} was made of another file than {config.train.data}, which may have changed since")
        if listed[-1] >= num_rows:
            raise UserError(f"{path}: index {listed[-1]} is not in {config.train.data}, which has {num_rows} records")
        return listed

    default = config.selection.name
    if indices is not None:
        named = indices.absolute().parent.name if indices.name == INDICES else indices.stem
        default = re.sub(r"[^A-Za-z0-9_.-]+", "-", named).strip("-.") or "indices"
    return Part(default, {"rows": digest({"indices": listed})}, rows)


def _random(count: int, seed: int) -> Part:
    def rows(num_rows: int) -> list[int]:
        from icons.training.samples import random_rows

        if count > num_rows:
            raise UserError(f"the selection has {count} records, more than the {num_rows} of the training data")
        return random_rows(num_rows, count, seed)

    return Part(f"random-{count}-seed{seed}", {"rows": f"{count} at random, seed {seed}"}, rows)


def read_indices(path: Path) -> tuple[list[int], int | None, str | None]:
    """Ascending indices of a selection file, or of a bare JSON list; `num_train` and `data` where they are given.

    Raises UserError when they are not distinct non-negative whole numbers.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as a JSON file of row numbers ({reason})") from None
    whole: dict[str, Any] = content if isinstance(content, dict) else {"indices": content}
    indices, num_train, data = whole.get("indices"), whole.get("num_train"), whole.get("data")
    if not isinstance(indices, list) or not indices:
        raise UserError(f'{path}: expected a list of row numbers, or an object with one under "indices"')
    for index in indices:
        if type(index) is not int or index < 0:
            raise UserError(f"{path}: {index!r} is no row number; expected whole numbers from 0")
    ordered = sorted(indices)
    for first, second in pairwise(ordered):
        if first == second:
            raise UserError(f"{path}: index {first} stands twice; each record is trained on once an epoch")
    count = num_train if type(num_train) is int else None
    return ordered, count, data if isinstance(data, str) else None


MERGED_OF = "merged_of.json"
"""Beside merged/: the SHA-256 of the adapter that was folded in."""


def _merge(config: Config, job: Job) -> None:
    from icons.models.merging import write_merged

    target, note = job.folder / "merged", job.folder / MERGED_OF
    with only_one_process(job.folder):
        adapter = file_digest(job.folder / "final" / "adapter_model.safetensors")
        if target.is_dir() and note.is_file() and read_json(note) == {"adapter": adapter}:
            say(f"{job.title}: {target} is there already")
            return
        note.unlink(missing_ok=True)
        replace_folder(target, lambda folder: write_merged(config.model, job.folder / "final", folder))
        write_json(note, {"adapter": adapter})
    say(f"{job.title}: merged into the weights, a plain model folder: {target}")
