"""Writes config.md, every key of the config: python docs/keys.py

Types, bounds and defaults are those of the pydantic models, what a key means is its comment in configs/example.yaml.
A test fails when the page is out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "config.md"
sys.path.insert(0, str(HERE.parent))

from icons.config import Config  # noqa: E402
from icons.config_section import MOST  # noqa: E402
from icons.new_config import example_lines  # noqa: E402

BEGINNING = """\
# Every key of the config

Written by `python docs/keys.py` from the config's own types and from the comments of
[configs/example.yaml](../configs/example.yaml). `icons init` writes a config to begin with: [own-data.md](own-data.md).
`--set section.key=value` on the command line overrides a key. An unknown key, an impossible value and a missing file
are refused, with key and line. Paths are relative to the config file.
"""
LIKE = {
    "finetune": "warmup",
    "tasks": "train",
    "evaluation.tasks": "train",
}  # where a key of the same name is explained
OF_TASKS = {
    "name": "letters, digits, `_`, `.` and `-`",
    "group": "tasks of one group count as one: the higher score",
    "data": "validation samples, in any format of `train.data`",
}


def page() -> str:
    schema = Config.model_json_schema()
    meanings = {line.key: " ".join(line.beside) for line in example_lines()}
    rows: dict[str, list[str]] = {}
    for section, key, value, required in _keys(schema, schema, ()):
        rows.setdefault(section, []).append(_row(section, key, value, required, meanings))
    text = [BEGINNING]
    for section, lines in rows.items():
        said = _linked(meanings.get(section, ""))
        text += [f"## {section or 'At the top'}\n", *([f"{said[:1].upper()}{said[1:]}.\n"] if said else [])]
        text += ["| key | takes | default | |", "|---|---|---|---|", *lines, ""]
    return "\n".join(text)


def _keys(schema: Any, section: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str, Any, bool]]:
    """(section, key, JSON schema, whether it has to be given), a section's own keys before those of sections in it."""
    inner = []
    for key, value in section["properties"].items():
        found = _section_of(schema, value)
        if found is None:
            yield ".".join(path), key, value, key in section.get("required", ())
        else:
            inner.append((key, found))
    for key, found in inner:
        yield from _keys(schema, found, (*path, key))


def _section_of(schema: Any, value: Any) -> Any:
    """The section that a key holds, or holds a list of; None of any other key."""
    name = value.get("$ref", value.get("items", {}).get("$ref", "")).rpartition("/")[2]
    return schema["$defs"].get(name)


def _row(section: str, key: str, value: Any, required: bool, meanings: dict[str, str]) -> str:
    meaning = meanings.get(f"{section}.{key}" if section else key) or ""
    if section.endswith("tasks"):
        meaning = OF_TASKS.get(key, meaning)
    meaning = meaning or meanings.get(f"{LIKE.get(section)}.{key}") or ""
    default = "" if "default" not in value else f"`{json.dumps(value['default'])}`"
    return f"| `{key}` | {_cell(_takes(value))} | {'has to be given' if required else default} | {_cell(meaning)} |"


def _takes(value: Any) -> str:
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    for several in ("anyOf", "oneOf"):
        if several in value:
            return " or ".join(dict.fromkeys(_takes(each) for each in value[several]))
    if "$ref" in value:
        return "the same with `source`"
    if value.get("type") == "array":
        return f"a list: {_takes(value['items'])}"
    name = {"integer": "a whole number", "number": "a number", "boolean": "`true`, `false`", "null": "`null`"}
    kind = {"path": "a path", "date": "a date"}.get(value.get("format", "")) or name.get(value.get("type", ""), "text")
    return {"object": "keys"}.get(value.get("type", ""), kind) + _bounds(value)


def _bounds(value: Any) -> str:
    said = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))
    bounds = [
        f"{word} {value[name]:g}"
        for name, word in said
        if name in value and value[name] != MOST and abs(value[name]) < 2**62
    ]
    return f" {', '.join(bounds)}" if bounds else ""


def _cell(text: str) -> str:
    return _linked(text).replace("|", "\\|")


def _linked(text: str) -> str:
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
