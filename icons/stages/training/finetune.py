"""`icons finetune`: the final run, a fresh LoRA and the projector on the selection, or on what it is compared with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icons.atomic import new_folder
from icons.config import Config
from icons.data.records import Records
from icons.errors import UserError
from icons.progress import say
from icons.stages.training.fit import train
from icons.stages.training.job import Job
from icons.store.files import read_json, write_json
from icons.store.fingerprint import Fingerprint, digest, file_digest
from icons.store.indices import read_indices
from icons.store.layout import INDICES, RunFolder
from icons.store.lock import only_one_process
from icons.store.whole import damaged, mark_whole

CHECKPOINTS_KEPT = 2  # the newest; at LLaVA-1.5-7B's size each takes 4 GB


@dataclass(frozen=True)
class Part:
    """Which rows are trained on: their default name, what decides them, and themselves once the file is open."""

    name: str
    made_of: Fingerprint
    rows: Callable[[Records], list[int]]


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


def choose(
    config: Config, selection: str | None, indices: Path | None, everything: bool, random_seed: int | None
) -> Part:
    """The config's selection, unless one of the options asks for something else; a UserError when two do.

    A random part is as large as the selection, the config's or the one that is named.
    """
    asked = {
        "--selection": selection is not None and random_seed is None,
        "--indices": indices is not None,
        "--everything": everything,
        "--random": random_seed is not None,
    }
    options = [option for option, used in asked.items() if used]
    if len(options) > 1:
        raise UserError(f"{' and '.join(options)} exclude each other; give one, or none for the selection")
    if everything:
        return Part("everything", {"rows": "everything"}, lambda records: list(range(len(records))))
    folder, name = RunFolder(config.output_dir), selection or config.selection.name
    path = indices or folder.selection(name) / INDICES
    if indices is None and not path.is_file():
        there = sorted(each.parent.name for each in folder.selections.glob(f"*/{INDICES}"))
        names = f" (there are {', '.join(there)})" if there else ""
        raise UserError(
            f"no selection {name} in {folder.selections}{names}; run `icons generalist` first, or choose with "
            "--selection NAME, --indices FILE or --everything"
        )
    rows_listed = read_indices(path)
    listed, num_train, data = rows_listed.rows, rows_listed.num_train, rows_listed.data
    if random_seed is not None:
        return _random(len(listed), random_seed)

    def rows(records: Records) -> list[int]:
        if num_train is not None and num_train != len(records):
            raise UserError(f"{path} was made of {num_train} records, {records.path} has {len(records)}")
        if data is not None and data != records.sha256[:16]:
            raise UserError(f"{path} was made of another file than {records.path}, which may have changed since")
        if listed[-1] >= len(records):
            raise UserError(f"{path}: index {listed[-1]} is not in {records.path}, which has {len(records)} records")
        return listed

    default = name
    if indices is not None:
        named = indices.absolute().parent.name if indices.name == INDICES else indices.stem
        default = re.sub(r"[^A-Za-z0-9_.-]+", "-", named).strip("-.") or "indices"
    return Part(default, {"rows": digest({"indices": listed})}, rows)


def _random(count: int, seed: int) -> Part:
    def rows(records: Records) -> list[int]:
        from icons.training.samples import random_rows

        if count > len(records):
            raise UserError(f"the selection has {count} records, more than the {len(records)} of {records.path}")
        return random_rows(len(records), count, seed)

    return Part(f"random-{count}-seed{seed}", {"rows": f"{count} at random, seed {seed}"}, rows)


MERGED_OF = "merged_of.json"
"""In merged/: the SHA-256 of the adapter that was folded in."""


def _merge(config: Config, job: Job) -> None:
    from icons.models.merging import write_merged

    target = job.folder / "merged"
    with only_one_process(job.folder):
        made_of = {"adapter": file_digest(job.folder / "final" / "adapter_model.safetensors")}
        if not damaged(target) and read_json(target / MERGED_OF) == made_of:
            say(f"{job.title}: {target} is there already")
            return
        with new_folder(target, replace=True) as folder:
            write_merged(config.model, job.folder / "final", folder)
            write_json(folder / MERGED_OF, made_of)
            mark_whole(folder)
    weights = "the weights"
    if config.model.quantization:
        weights = (
            f"the plain weights of model.base, not those in {config.model.quantization} that it was trained beside"
        )
    say(f"{job.title}: merged into {weights}, a plain model folder: {target}")
