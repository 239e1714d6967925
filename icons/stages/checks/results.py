"""What a run folder holds beside its stages: selections, trainings, evaluations, the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.errors import UserError
from icons.store.files import read_sealed
from icons.store.layout import INDICES, RunFolder
from icons.store.selection import selection_names


@dataclass(frozen=True)
class Result:
    """`kind` is selection, finetune, evaluation or report; `detail` what a person wants to know of it."""

    kind: str
    name: str
    detail: str


def results(output_dir: Path) -> list[Result]:
    """In the order in which they are made; what is damaged says so."""
    folder = RunFolder(output_dir)
    names = selection_names(folder.selections)
    found = [Result("selection", name, _selection(folder.selection(name) / INDICES)) for name in names]
    for path in sorted((folder.root / "finetune").glob("*/manifest.json")):
        found.append(Result("finetune", path.parent.name, _training(path)))
    for path in sorted(path for path in folder.evaluations.glob("*") if path.is_dir()):
        tasks = [each.stem for each in sorted(path.glob("*.json"))]
        found.append(Result("evaluation", path.name, f"{len(tasks)} tasks"))
    page = folder.report / "index.html"
    return [*found, *([Result("report", page.name, str(page))] if page.is_file() else [])]


def lines(found: list[Result]) -> Iterator[str]:
    """For a person, a line a result; nothing where there is none."""
    before = ""
    for each in found:
        yield f"{each.kind if each.kind != before else '':<12} {each.name:<24} {each.detail}".rstrip()
        before = each.kind


def _selection(path: Path) -> str:
    return _told(path, lambda head: f"{head['num_selected']} of {head['num_train']} records by {head['method']}")


def _training(path: Path) -> str:
    def told(manifest: dict[str, Any]) -> str:
        state = "done" if manifest["complete"] else "begun"
        merged = ", merged" if (path.parent / "merged").is_dir() else ""
        return f"{state}, {manifest['steps']} steps on {manifest['records']} records{merged}"

    return _told(path, told)


def _told(path: Path, words: Any) -> str:
    try:
        return str(words(read_sealed(path, "")))
    except (UserError, KeyError, TypeError):
        return "damaged"
