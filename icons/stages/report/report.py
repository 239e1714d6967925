"""`icons report`: one self-contained page about the run's selections, and its figures as files."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from icons import __version__
from icons.config import Config
from icons.config_file import dump_config
from icons.data.sets import data_digest
from icons.errors import UserError
from icons.progress import say
from icons.settings import settings_file
from icons.stages.report.inputs import Inputs, read_inputs
from icons.store.files import write_bytes, write_sealed
from icons.store.fingerprint import as_written, digest, file_digest
from icons.store.layout import INDICES, STABILITY, RunFolder
from icons.store.scores import read_scores_header
from icons.store.selection import selection_names

FORMAT = 3
"""Counts up when the page of the same inputs changes."""


def report(config: Config, names: list[str] | None = None, *, pdf: bool = False, path: Path | None = None) -> None:
    """Writes report/index.html and report/figures/, and last report/manifest.json, which marks them complete.

    About the first of `names`, compared with the others; without names about the config's selection, compared with all
    in the run folder; with `pdf` the figures also lie there as PDF; `path` is the config file that the page names
    where the run folder holds no settings. Raises UserError when a selection is not there, or
    when something that it reads is damaged or is not of this training data.
    """
    begin = time.monotonic()
    folder = RunFolder(config.output_dir)
    selected = _names(config, folder, names or [])
    if not names and selected[0] != config.selection.name:
        say(f"report: no selection {config.selection.name} yet, so the page is about {selected[0]}")
    page = folder.report / "index.html"
    fingerprint = _fingerprint(config, folder, selected)
    done = as_written(folder.report / "manifest.json", fingerprint)
    drawn = not pdf or bool(done and any(name.endswith(".pdf") for name in done["files"]))
    if done and drawn and not (names and done.get("stale")):  # one that was left out, and is now asked for by name
        say(f"report: {page}, already done")
        return
    inputs = read_inputs(config, selected, asked=bool(names))
    files = _made(config, inputs, pdf=pdf, path=path)
    _remove_old(folder.report, files)
    for name, content in files.items():
        write_bytes(folder.report / name, content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    write_sealed(folder.report / "manifest.json", {"fingerprint": fingerprint, "stale": inputs.stale, "files": sums})
    size = len(files["index.html"]) / 1e6
    without = f", without {', '.join(inputs.stale)} (made of other scores)" if inputs.stale else ""
    say(f"report: {size:.1f} MB in {time.monotonic() - begin:.1f} s{without}, written to {page}")


def _names(config: Config, folder: RunFolder, asked: list[str]) -> list[str]:
    """The selection that the page is about, then those to compare with it."""
    there = selection_names(folder.selections)
    if not there:
        raise UserError(f"no selection in {folder.selections} yet; run `icons generalist` (or `icons run`) first")
    for name in asked:
        if name not in there:
            raise UserError(f"no selection {name!r} in {folder.selections}; there are {', '.join(there)}")
    if asked:
        return list(dict.fromkeys(asked))
    default = config.selection.name
    return sorted(there, key=lambda name: (name != default, name))


def _fingerprint(config: Config, folder: RunFolder, names: list[str]) -> str:
    """Of everything that the page shows; images, as everywhere, are left out."""
    read: dict[str, object] = {
        "format": FORMAT,
        "icons": __version__,
        "config": dump_config(config),
        "names": names,
        "scores": read_scores_header(folder.scores),
        "data": data_digest(config.train.parts),
    }
    for path in _small_files(config, folder, names):
        read[str(path.relative_to(folder.root))] = file_digest(path) if path.is_file() else None
    return digest(read)


def _small_files(config: Config, folder: RunFolder, names: list[str]) -> Iterable[Path]:
    yield from (folder.selections / name / file for name in names for file in (INDICES, STABILITY))
    yield from (
        folder.warmup / "manifest.json",
        folder.warmup / "log.jsonl",
        folder.influence / "parts" / "manifest.json",
    )
    yield from sorted(folder.evaluations.glob("*/*.json"))
    for checkpoint in config.gradients.checkpoints:
        yield folder.index(checkpoint)
        for task in config.tasks:
            yield folder.task(checkpoint, task.name) / "manifest.json"
        for chunk in range(config.train.num_chunks):
            yield folder.chunk(checkpoint, chunk, config.train.num_chunks) / "manifest.json"


def _remove_old(folder: Path, files: dict[str, bytes]) -> None:
    """Takes the manifest away, and figures of an earlier page that this one does not have."""
    (folder / "manifest.json").unlink(missing_ok=True)
    for path in folder.glob("figures/*"):
        if path.suffix in (".png", ".svg", ".pdf", ".csv") and f"figures/{path.name}" not in files:
            path.unlink()


def _made(config: Config, inputs: Inputs, *, pdf: bool, path: Path | None) -> dict[str, bytes]:
    """Every file's content by its name under report/, the page last."""
    from icons.report.contents import trust_figures, what_figures, why_figures
    from icons.report.drawing import render
    from icons.report.helped import helped_figure
    from icons.report.page import write_page
    from icons.report.warmup import warmup_figure

    material = inputs.material
    warmup = warmup_figure(inputs.provenance.log)
    helped = helped_figure(material.results)
    sections = {
        "helped": [helped] if helped else [],
        "what": what_figures(material),
        "why": why_figures(material),
        "trust": trust_figures(material),
        "made": [warmup] if warmup else [],
    }
    drawn = {shown.name: render(shown, pdf=pdf) for figures in sections.values() for shown in figures}
    files = {f"figures/{file}": body for name, each in drawn.items() for file, body in each.files(name).items()}
    files["index.html"] = write_page({**sections, "drawn": drawn, **_words(config, inputs, path)})
    return files


def _inspect(config: Config, path: Path | None) -> str:
    """The command that shows any row, up to its number: by the settings in the run folder, else by the config file."""
    kept = settings_file(config.output_dir)
    there = next((file for file in (kept, RunFolder(config.output_dir).config) if file.exists()), path or kept)
    return f"icons inspect {shlex.quote(str(there))} --row"


def _words(config: Config, inputs: Inputs, path: Path | None) -> dict[str, Any]:
    """What the template needs beside the figures."""
    from icons.machine import this_machine
    from icons.report.answers import answers_finding, count_answers
    from icons.report.contents import (
        facts,
        findings,
        lead,
        notes_table,
        selections_table,
        sources_of_all,
        stability_findings,
    )
    from icons.report.doubts import doubts
    from icons.report.helped import helped_findings
    from icons.report.making import fingerprint_table, machines_table, times_note, times_table
    from icons.report.naming import telling_name
    from icons.report.problems import by_kind
    from icons.report.thumbnails import LONGEST

    m, provenance = inputs.material, inputs.provenance
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "focus": m.focus,
        "run": telling_name(str(config.output_dir)),
        "run_path": str(config.output_dir),
        "model": telling_name(config.model.base),
        "model_path": config.model.base,
        "count": len(m.valid),
        "ranked": m.ranked,
        "rows": inputs.rows,
        "inspect": _inspect(config, path),
        "longest": LONGEST,
        "tasks": m.tasks,
        "lead": lead(m, Path(config.train.title).name),
        "facts": facts(m),
        "kinds": inputs.kinds,
        "samples": inputs.samples,
        "sample_sources": sorted({view.source for view in inputs.samples}),
        "findings": [
            *findings(m, inputs.stale),
            *doubts(m, provenance.log, inputs.warmup_steps),
            answers_finding(count_answers(m.traits, m.focus.selected)),
            *stability_findings(m.focus.stability),
        ],
        "help": helped_findings(m.results, m.focus.name),
        "skipped": [(where, by_kind(reasons)) for where, reasons in provenance.skipped.items() if reasons],
        "notes": notes_table(m),
        "others": m.others,
        "selections": selections_table(m),
        "sources_of_all": sources_of_all(m),
        "times": times_table(provenance.times),
        "times_note": times_note(provenance.times),
        "machines": machines_table(provenance.machines, this_machine()),
        "fingerprint": fingerprint_table(
            provenance.made_of, inputs.scores_fingerprint, str(m.focus.head.get("fingerprint", "–"))
        ),
        "config": dump_config(config),
        "signed": f"Made by icons {__version__}, {now}. The figures lie beside this page in figures/, as PNG and SVG "
        "(icons report --pdf: as PDF for a paper, 6.9 and 3.3 inches wide), their numbers as CSV.",
    }
