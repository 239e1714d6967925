"""`icons export`: the selected records, or all of them with the selection as columns, for other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from icons.atomic import new_folder
from icons.config import Config
from icons.data import written
from icons.data.images import ImageSource
from icons.data.sets import open_records
from icons.errors import UserError
from icons.progress import say
from icons.stages.export.containers import write_json, write_lines, write_own, write_parquet, write_saved
from icons.stages.export.guide import write_guide
from icons.stages.export.rows import Export, Form, Noticed, image_bytes, unpacked
from icons.store.layout import RunFolder
from icons.store.scores import Scores, read_scores
from icons.store.selection import StoredSelection, read_selection

JSON_FORMS: dict[str, tuple[str, Form]] = {
    "llava": ("data.json", written.llava),
    "sharegpt": ("data.json", written.sharegpt),
    "messages": ("data.jsonl", written.messages),
}
FORMATS = (*JSON_FORMS, "parquet", "hf")


def export(config: Config, out: Path, name: str | None, form: str | None, *, paths: bool, whole: bool) -> None:
    """Writes a new folder `out`: the data, LLaMA-Factory's dataset_info.json, a README.md with programs' commands.

    `form` is one of FORMATS; None keeps the input's own. `whole` writes every valid record with the columns weight (1:
    selected), votes, value and scores. `paths` leaves
    images out of Parquet and datasets.

    Raises UserError when the selection is missing, damaged or of other data, or cannot be written in that form.
    """
    selection = read_selection(RunFolder(config.output_dir).selection(name or config.selection.name))
    records = open_records(config.train.parts)
    if records.sha256[:16] != selection.head["data"]:
        raise UserError(f"{config.train.title} is not the data that {selection.name} was selected from")
    _require_possible(form, paths=paths, whole=whole)
    scores = _scores(config, selection) if whole else None
    kept = selection.selected if scores is None else scores.valid
    rows = np.flatnonzero(kept).tolist()
    beside = _beside(selection, scores)
    job = Export(records, rows, beside, config.model.template == "vicuna_v1")
    with new_folder(out) as folder:
        if form is None:
            file = write_own(records, rows, folder)
            job.noticed.rows = len(rows)
        elif form in JSON_FORMS:
            file, shape = JSON_FORMS[form]
            place = _paths(config, folder, out.absolute())
            (write_json if file.endswith(".json") else write_lines)(folder / file, job.written(shape, place))
        else:
            columns = scores.columns if scores else []
            made = job.written(written.messages_of_parts, _absolute if paths else _embedded)
            file = "train-*.parquet" if form == "parquet" else "dataset"
            if form == "parquet":
                write_parquet(folder, made, columns)
            else:
                write_saved(folder / "dataset", made, columns)
        records.require_unchanged()
        write_guide(folder, out.absolute(), file, form, config, selection, len(rows), whole=whole)
    _tell(job.noticed, out, form, len(kept) - len(rows) if whole else 0)


def _require_possible(form: str | None, *, paths: bool, whole: bool) -> None:
    if form is not None and form not in FORMATS:
        raise UserError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    if whole and form is None:
        raise UserError("--whole adds columns to the records; say in which form with --format, for example parquet")
    if paths and form not in ("parquet", "hf"):
        raise UserError("--paths is for --format parquet and hf; in JSON images are paths anyway")
    if form in ("parquet", "hf"):
        try:
            import datasets  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(f"--format {form} needs pyarrow and datasets; pip install 'icons[data]'") from None


def _scores(config: Config, selection: StoredSelection) -> Scores:
    scores = read_scores(RunFolder(config.output_dir).scores)
    if scores.fingerprint != selection.head.get("scores"):
        raise UserError(f"{selection.name} was not made of the scores that are there; run `icons generalist` again")
    return scores


def _beside(selection: StoredSelection, scores: Scores | None) -> Callable[[int], dict[str, Any]]:
    def columns(row: int) -> dict[str, Any]:
        if scores is None:
            return {}
        return {
            "weight": int(selection.selected[row]),
            "votes": int(selection.votes[row]),
            "value": float(selection.values[row]),
            "scores": {task: float(scores.scores[row, k]) for k, task in enumerate(scores.columns)},
        }

    return columns


def _paths(config: Config, folder: Path, out: Path) -> Callable[[int, int, ImageSource, str], str]:
    """As the record has them where all are relative to one folder, else absolute; those within data are unpacked."""
    one_folder = len({part.images for part in config.train.parts}) == 1

    def place(row: int, position: int, source: ImageSource, name: str) -> str:
        if isinstance(source, Path):
            return name if one_folder else str(source)
        content = source.content()
        return str(content) if isinstance(content, Path) else str(out / unpacked(folder, row, position, content))

    return place


def _embedded(row: int, position: int, source: ImageSource, name: str) -> dict[str, Any]:
    return {"bytes": image_bytes(source), "path": Path(name).name[-200:] if isinstance(source, Path) else None}


def _absolute(row: int, position: int, source: ImageSource, name: str) -> dict[str, Any]:
    where = source if isinstance(source, Path) else source.content()
    return {"bytes": None, "path": str(where)} if isinstance(where, Path) else {"bytes": where, "path": None}


def _tell(noticed: Noticed, out: Path, form: str | None, invalid: int) -> None:
    left = f", {invalid} that no run could use left out" if invalid else ""
    say(f"export: {noticed.rows} records{left}, written to {out} ({form or 'in their own form'}); see its README.md")
    if noticed.without_fitting_tags:
        say(
            f"  ! {len(noticed.without_fitting_tags)} records have <image> more often than images, which LLaVA's own "
            f"code takes for text and others stop at, such as {noticed.without_fitting_tags[0]}"
        )
    if noticed.marked_turns and form in ("sharegpt", "parquet", "hf"):
        say(
            f"  ! {len(noticed.marked_turns)} records have answers that are not to be predicted, which this form "
            f"cannot say, such as {noticed.marked_turns[0]}; llava and messages keep the mark"
        )
