"""`output_dir/config.yaml`: of every stage the settings that its results were made with, section by section.

A command replaces the sections that its results depend on and leaves the others as the stage wrote them that used them.
A selection, a finetune and an evaluation keep more in files of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from icons.config import Config
from icons.store.files import write_bytes
from icons.store.layout import RunFolder

MARK = "# Written by icons: the settings that the results in this folder were made with, section by section.\n"
BESIDE = "config.icons.yaml"
"""The file's name where the user's own config.yaml lies in the output folder."""

_ROWS = "model gradients on_bad_record"
SECTIONS = {
    "warmup": "model train warmup training on_bad_record",
    "finetune": "finetune training",
    "evaluate": "evaluation",
    "train-grads": f"{_ROWS} train",
    "val-grads": f"{_ROWS} tasks",
    "merge": f"{_ROWS} train",
    "specialist": f"{_ROWS} train tasks influence",
    "generalist": "selection",
    "run": f"{_ROWS} train tasks warmup training influence selection",
}
"""Command -> sections of the config that decide its results; commands that only look have none."""


def keep_settings(config: Config, path: Path, command: str) -> None:
    """Writes what `command` was run with; never over the file at `path` that the user gave, nor another of theirs."""
    target = settings_file(config.output_dir)
    if command not in SECTIONS or target.resolve() == path.resolve():
        return
    new = config.model_dump(mode="json")
    kept = {**new, **_stored(target), **{key: new[key] for key in SECTIONS[command].split()}}
    kept["output_dir"] = new["output_dir"]
    content = (MARK + yaml.safe_dump(_loadable(kept, new), sort_keys=False, allow_unicode=True)).encode()
    if not (target.is_file() and target.read_bytes() == content):
        write_bytes(target, content)


def settings_file(output_dir: Path) -> Path:
    """Where the settings lie: config.yaml, unless that is a file of the user's."""
    target = RunFolder(output_dir).config
    return target if not target.exists() or _is_ours(target) else target.with_name(BESIDE)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK.encode()


def _stored(path: Path) -> dict[str, Any]:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (yaml.YAMLError, ValueError):
        return {}
    sections = Config.model_fields
    return {key: value for key, value in content.items() if key in sections} if isinstance(content, dict) else {}


def _loadable(kept: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What was kept, unless its sections no longer fit each other: then the config as it is."""
    try:
        Config.model_validate(kept)
    except ValidationError:
        return new
    return {key: kept[key] for key in new}
