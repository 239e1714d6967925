"""A mixture file: a YAML list of data files that are one set, each a path or the keys of an entry of `train.data`.

LLaVA-OneVision's form, `datasets:` with `json_path`, is read too, as long as every file is taken whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from icons.config_data import PartConfig
from icons.errors import UserError
from icons.plain import quoted
from icons.yaml_text import read_yaml

_SUFFIXES = (".yaml", ".yml")


def is_mixture_file(path: Path) -> bool:
    return path.suffix in _SUFFIXES and path.is_file()


def read_mixture(path: Path) -> list[PartConfig]:
    """Its parts, paths as they stand there; UserError with file, line and key for each thing that is wrong."""
    try:
        raw, lines = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a mixture file ({getattr(error, 'strerror', None) or error})"
        ) from None
    within: tuple[str | int, ...] = ()
    if isinstance(raw, dict) and list(raw) in (["datasets"], ["data"]):
        within = tuple(raw)
        raw = raw[within[0]]
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{path}: expected a list of data files, each a path or a mapping with data")
    entries = [_entry(path, lines.get((*within, number)), entry) for number, entry in enumerate(raw)]
    try:
        return TypeAdapter(list[PartConfig]).validate_python(entries)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            line = lines.get((*within, *problem["loc"]), lines.get((*within, *problem["loc"][:1])))
            key = ".".join(str(each) for each in problem["loc"])
            known = (
                f"; known here: {', '.join(PartConfig.model_fields)}" if problem["type"] == "extra_forbidden" else ""
            )
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{path} line {line}: {key}: {message}{known} (got {quoted(problem['input'])})")
        raise UserError("\n".join(problems)) from None


def _entry(path: Path, line: int | None, entry: Any) -> Any:
    if not isinstance(entry, dict):
        entry = {"data": entry}
    named = entry.get("data", entry.get("json_path"))
    if not isinstance(named, str) or ("data" in entry and "json_path" in entry):
        raise UserError(f"{path} line {line}: expected a path under data, found {quoted(named)}")
    if Path(named).suffix in _SUFFIXES:
        raise UserError(f"{path} line {line}: {named} is a mixture file itself; list its files here")
    if "json_path" not in entry:
        return entry
    strategy = entry.get("sampling_strategy", "all")
    if strategy != "all":
        raise UserError(
            f"{path} line {line}: sampling_strategy {quoted(strategy)}; a file is taken whole here, cut it before "
            "(its rows would be others every time)"
        )
    rest = {key: value for key, value in entry.items() if key not in ("json_path", "sampling_strategy")}
    return {"data": entry["json_path"], **rest}
