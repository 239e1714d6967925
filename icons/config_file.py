"""The YAML file, read into one `Config` and checked once at the door.

Paths in the file are relative to the file. `--set dotted.key=value` overrides a key; the value is read as YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from icons.config import Config, TaskConfig
from icons.config_data import DataSection, PartConfig
from icons.data.records import is_hub_id
from icons.errors import UserError
from icons.mixture_file import is_mixture_file, read_mixture
from icons.plain import quoted
from icons.yaml_text import read_yaml

AnyData = TypeVar("AnyData", bound=DataSection)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads, overrides, checks; every path comes back absolute.

    Raises UserError naming file, line and key for each thing that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a config file ({_reason(error)})") from None
    return read_config(text, path, overrides)


def read_config(text: str, path: Path, overrides: Sequence[str] = ()) -> Config:
    """What `load_config` would make of a file at `path` with this text."""
    raw, lines = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected keys such as output_dir, model, train and tasks, found {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        # A default made of other keys could not be made: those that are wrong have problems of their own.
        wrong = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
        problems = [_explain(path, problem, lines) for problem in wrong]
        raise UserError("\n".join(problems)) from None
    return _resolve(config, path.absolute().parent)


def missing_files(config: Config) -> list[str]:
    """One line for every file or folder that the config names and that is not there."""
    named: list[tuple[str, Path | None, bool]] = [("model.adapter", config.model.adapter, True)]
    named.append(("selection.plugin", config.selection.plugin, False))
    named.append(("selection.stability_with", config.selection.stability_with, True))
    problems = _missing_data(config.train, "train.", "")
    for section, tasks in (("tasks", config.tasks), ("evaluation.tasks", config.evaluation.tasks)):
        for index, task in enumerate(tasks):
            problems += _missing_data(task, f"{section}.{index}.", f" ({task.name})")
    for key, path, folder in named:
        if path is not None and not (path.is_dir() if folder else path.is_file()):
            problems.append(f"{key}: {path} is not {'a folder' if folder else 'a file'}")
    if Path(config.model.base).is_absolute() and not Path(config.model.base).is_dir():
        problems.append(f"model.base: {config.model.base} is not a folder")
    return problems


def _missing_data(section: DataSection, prefix: str, called: str) -> list[str]:
    several = not isinstance(section.data, Path)
    problems = []
    for number, part in enumerate(section.parts):
        key = f"{prefix}data.{number}" if several else f"{prefix}data"
        if not is_hub_id(part.path) and not part.path.exists():
            problems.append(f"{key}{called}: {part.path} is not a file or a folder")
    for folder in dict.fromkeys(part.images for part in section.parts):
        if folder is not None and not folder.is_dir():
            problems.append(f"{prefix}images{called}: {folder} is not a folder")
    return problems


def dump_config(config: Config) -> str:
    """The resolved config as YAML; loading it again gives an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _resolve(config: Config, folder: Path) -> Config:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(folder, _expanded(path))

    base = _expanded(Path(config.model.base))
    # A Hub id is `name` or `owner/name`; anything else, and anything that is there, is a path.
    named_as_path = config.model.base.startswith(("/", "./", "../", "~")) or len(base.parts) > 2
    is_path = named_as_path or (folder / base).exists()
    model = config.model.model_copy(
        update={
            "base": str(folder / base) if is_path else config.model.base,
            "adapter": absolute(config.model.adapter),
        }
    )

    def located(tasks: list[TaskConfig]) -> list[TaskConfig]:
        return [_located(task, folder) for task in tasks]

    evaluation = config.evaluation.model_copy(update={"tasks": located(config.evaluation.tasks)})
    section = config.selection
    selection = section.model_copy(
        update={key: absolute(getattr(section, key)) for key in ("plugin", "stability_with")}
    )
    resolved = {
        "model": model,
        "train": _located(config.train, folder),
        "tasks": located(config.tasks),
        "selection": selection,
        "evaluation": evaluation,
    }
    return config.model_copy(update={"output_dir": absolute(config.output_dir), **resolved})


def _located(section: AnyData, folder: Path) -> AnyData:
    """The section with absolute paths, and a mixture file's parts in its place."""

    def part_at(part: PartConfig, folder: Path) -> PartConfig:
        if part.data.suffix in (".yaml", ".yml"):
            raise UserError(f"{part.data}: a mixture file stands alone under data, not in a list; list its files here")
        images = None if part.images is None else Path(folder, _expanded(part.images))
        return part.model_copy(update={"data": _data_path(part.data, folder), "images": images})

    data = section.data
    update: dict[str, Any] = {}
    if isinstance(data, Path):
        data = _data_path(data, folder)
        update["data"] = data
        if is_mixture_file(data):
            update["data"] = [part_at(part, data.parent) for part in read_mixture(data)]
    else:
        update["data"] = [part_at(part, folder) for part in data]
    if section.images is not None:
        update["images"] = Path(folder, _expanded(section.images))
    return section.model_copy(update=update)


def _data_path(path: Path, folder: Path) -> Path:
    return path if is_hub_id(path) else Path(folder, _expanded(path))


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user's home folder") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected dotted.key=value, for example --set selection.percent=10")
    value, _ = read_yaml(text, f"--set {override:.200}")
    node: Any = raw
    parts = key.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f"--set {override}: {'.'.join(parts[:depth])} has entries 0 to {len(node) - 1}")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if node.get(index) is None and not last:
                node[index] = {}
        else:
            raise UserError(f"--set {override}: {'.'.join(parts[:depth])} is a single value, it has no {part!r}")
        if last:
            node[index] = value
        else:
            node = node[index]


def _explain(path: Path, problem: Any, lines: dict[tuple[str | int, ...], int]) -> str:
    location = tuple(part for part in problem["loc"] if part not in {"int", "str", "one", "several"})
    places = [lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines]
    where = f"{path} line {places[0]}" if places else str(path)
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        candidates = _keys_at(location[:-1])
        near = get_close_matches(str(location[-1]), candidates, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(candidates)}"
        return f"{where}: unknown key {key!r}; {hint}"
    if problem["type"] == "missing":
        return f"{where}: the key {key!r} is missing"
    message = re.sub(r"^Value error, ", "", problem["msg"])
    message = re.sub(r"^Input should be a valid dictionary or instance of \w+", "expected keys below it", message)
    return f"{where}: {key}: {message} (got {quoted(problem['input'])})" if key else f"{where}: {message}"


def _keys_at(location: Iterable[str | int]) -> list[str]:
    section: Any = Config
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            if section is not PartConfig and part == "data":
                section = PartConfig
                continue
            section = annotation if isinstance(annotation, type) else annotation.__args__[0]
    return list(section.model_fields)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
