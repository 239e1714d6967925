"""`icons generalist`: the selection, by vote or another method, as indices, records and votes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from icons.config import Config
from icons.data.forms import in_llava_form
from icons.data.records import Records
from icons.errors import UserError
from icons.progress import say
from icons.selection.consensus import Int64
from icons.selection.copies import Copies
from icons.selection.cut import Cut
from icons.selection.shares import nearest_tasks, passed_over, shared_out
from icons.stages.generalist.copies import alike
from icons.stages.generalist.evidence import selection_method
from icons.stages.generalist.select import (
    about_percent,
    open_scores,
    open_training,
    select,
    selection_fingerprint,
    selection_settings,
)
from icons.store.files import SEAL, read_sealed, seal, write_bytes, write_parts, write_tensors
from icons.store.fingerprint import as_written, file_digest
from icons.store.layout import DATA, INDICES, VOTES, RunFolder
from icons.store.scores import Scores


def generalist(config: Config) -> None:
    """Writes selected_data.json and votes.safetensors, and last selected_indices.json, which marks them complete.

    Records that do not lie in JSON files get no selected_data.json: `icons export` writes them.

    With `selection.stability` or `selection.stability_with` also stability.json.

    Raises UserError when the scores are of other tasks or other training data, or when nothing would be selected.
    """
    method, scores = selection_method(config), open_scores(config)
    folder = RunFolder(config.output_dir).selection(config.selection.name)
    fingerprint = selection_fingerprint(config, method, scores)
    target = folder / INDICES
    if done := as_written(target, fingerprint):
        count = len(done["indices"])
        say(f"generalist {config.selection.name}: {count} of {len(scores.valid)} selected, already done")
    else:
        settings = selection_settings(config, method)
        _make_room(target, config, settings, scores)
        _write_selection(config, scores, folder, fingerprint, settings)
    if config.selection.stability or config.selection.stability_with is not None:
        from icons.stages.generalist.stability import write_stability  # loads torch

        write_stability(config, scores, read_sealed(target, "run `icons generalist` again"))


def _make_room(target: Path, config: Config, settings: dict[str, Any], scores: Scores) -> None:
    """No finished selection is lost to another of its name.

    One by another method or with other settings of these scores is refused. One of other scores is moved beside, to
    `<name>.<8 digits of its fingerprint>`. A damaged one may be written again.
    """
    try:
        there = read_sealed(target, "")
    except UserError:
        return
    name = config.selection.name
    advice = "choose another selection.name (null names it by its method), or delete that folder"
    if there.get("method") != config.selection.method:
        raise UserError(f"{target} is a selection by {there.get('method')}, not by {config.selection.method}; {advice}")
    if there.get("scores") == scores.fingerprint:
        before = there.get("settings") or {}
        for key in sorted(settings.keys() | before.keys()):
            if settings.get(key) != before.get(key):
                raise UserError(
                    f"{target} is finished, with selection.{key} {before.get(key)!r}, and the config has "
                    f"{settings.get(key)!r}; {advice}"
                )
        return  # of the same settings and scores: a file beside it is gone or damaged
    beside = target.parent.with_name(f"{name[:90]}.{str(there.get('fingerprint'))[:8]}")
    if not beside.exists():
        target.parent.rename(beside)
        say(f"generalist {name}: the selection of earlier scores is kept as {beside.name}")


def _write_selection(
    config: Config, scores: Scores, folder: Path, fingerprint: str, decided_by: dict[str, Any]
) -> None:
    settings, num_rows = config.selection, len(scores.valid)
    selected = select(config, scores)
    rows, ranking, cut = selected.rows, selected.ranking, selected.cut
    tau, votes, count = selected.evidence.thresholds, selected.evidence.votes, selected.evidence.count
    counts = shared_out(nearest_tasks(scores.scores, scores.valid), rows, len(scores.columns))
    by_task = dict(zip(scores.columns, counts, strict=True))
    head: dict[str, Any] = {
        "num_train": num_rows,
        "data": scores.data,
        "num_selected": len(rows),
        "num_invalid": int((~scores.valid).sum()),
        "percent": settings.percent,
        "method": settings.method,
        "tasks": scores.columns,
        "thresholds": dict(zip(scores.columns, tau.tolist(), strict=True)),
        "by_task": by_task,
        "tie_break": settings.tie_break,
        "seed": settings.seed,
        "cut": asdict(cut) | {"share_by_tie_break": cut.share_by_tie_break},
        "scores": scores.fingerprint,
        "settings": decided_by,
        **({"notes": ranking.notes} if ranking.notes else {}),
        "fingerprint": fingerprint,
    }
    target = folder / INDICES
    target.unlink(missing_ok=True)
    copies = Copies()
    records, written = open_training(config, scores), [VOTES]
    if records.is_json:
        write_parts(folder / DATA, _data_file(records, rows, copies))
        written.append(DATA)
    else:
        (folder / DATA).unlink(missing_ok=True)
        for row in rows.tolist():
            copies.see(row, records[row])
    head["copies"] = {"rows": len(copies.rows)} | alike(config, copies)
    write_tensors(folder / VOTES, {"votes": votes, "values": ranking.values})
    head["files"] = {name: file_digest(folder / name) for name in sorted(written)}
    head[SEAL] = seal(head | {"indices": rows.tolist()})
    body = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    write_bytes(target, f'{body},\n "indices": {json.dumps(rows.tolist())}\n}}\n'.encode())
    short = f" (only {len(rows)} rows are valid)" if len(rows) < count else ""
    lowest, most = int(votes[rows].min()), int(votes[rows].max())
    say(
        f"generalist {settings.name}: {len(rows)} of {num_rows} selected{short}, votes {lowest} to "
        f"{most} of {len(scores.columns)}, written to {target}"
    )
    if about := about_percent(settings.percent, num_rows):
        say(f"  ! {about}")
    if not records.is_json:
        say(f"  the records lie in {records.container}: `icons export` writes those that are selected")
    say(_about(cut))
    for line in _warnings(by_task, len(copies.rows), len(rows)):
        say(f"  ! {line}")
    if ranking.summary:
        say(f"  {ranking.summary}")


def _about(cut: Cut) -> str:
    value = f"{cut.value:g}"
    if not cut.share_by_tie_break:
        return f"  the cut is clean: every row of value {value} or more is in"
    return (
        f"  the cut falls among the {cut.tie_class} rows of value {value}: {cut.taken} of them are in, "
        f"{cut.share_by_tie_break:.0%} of the selection, decided by tie_break"
    )


def _warnings(by_task: dict[str, int], copies: int, size: int) -> Iterator[str]:
    few = passed_over(list(by_task.values()))
    for number in few:
        task, count = list(by_task.items())[number]
        yield (
            f"task {task} gets {count} of the {size}, less than half of an even share ({size / len(by_task):.0f}); "
            "compare with selection.method proportional"
        )
    if 20 * copies > size:
        yield f"{copies} of the {size} are copies of others in the selection: they bring little"


def _data_file(records: Records, selected: Int64, copies: Copies) -> Iterator[bytes]:
    """A JSON list of the chosen records, one a line, in source order; `copies` sees each."""
    for position, row in enumerate(np.sort(selected).tolist()):
        record = records.raw(row)
        copies.see(row, in_llava_form(records.form, record))  # where all is JSON there is one form
        try:
            text = json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # a lone surrogate is legal in JSON, but only escaped
            text = json.dumps(record).encode()
        yield (b"[\n" if position == 0 else b",\n") + text
    yield b"\n]\n"
