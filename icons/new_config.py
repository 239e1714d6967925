"""A config for a run of one's own: the lines of configs/example.yaml that a beginner needs, with the answers in place.

So that every comment stands in one file, and what is written here is what the example says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from icons.atomic import write_bytes
from icons.config_file import missing_files, read_config
from icons.data.records import is_hub_id
from icons.progress import say

EXAMPLES = Path(__file__).parent / "examples"
"""`configs` and `scripts` of the repository: links to them there, copies of them in a wheel."""

KEPT = {
    "model": ("base", "adapter", "dtype", "template", "lora"),
    "train": ("data", "images", "num_chunks"),
    "warmup": ("fraction", "max_steps", "learning_rate", "batch_size"),
    "finetune": ("epochs", "learning_rate", "batch_size", "gradient_accumulation"),
    "gradients": ("checkpoints", "projection", "tokens_per_batch"),
    "selection": ("method", "percent"),
    "evaluation": ("tasks",),
}
"""Of each section the keys that a new config shows; the others keep their defaults unsaid."""

WIDTH = 36  # where a comment begins, as in the example


@dataclass(frozen=True)
class Answers:
    """What is known of the run; paths as they were typed, relative to the working folder. None keeps the example's."""

    model: str | None = None
    data: str | None = None
    images: str | None = None
    tasks: tuple[tuple[str, str], ...] = ()  # (name, path)
    output: str | None = None


@dataclass(frozen=True)
class Line:
    """A key of the example: `model.base`, its value as written, the comments above and beside it."""

    key: str
    value: str
    beside: tuple[str, ...] = ()
    above: tuple[str, ...] = ()


def start_run(folder: Path, answers: Answers, *, slurm: bool = False, configs: bool = False) -> None:
    """Writes `config.yaml`, last, and if asked for copies of the Slurm scripts and of the configs that icons brings.

    Raises UserError when an answer can be in no config; then nothing is written. A file that is not there yet is said.
    """
    path = folder / "config.yaml"
    text = new_config(answers)
    config = read_config(text, path)
    for name in [*(["scripts"] if slurm else []), *(["configs"] if configs else [])]:
        for each in sorted((EXAMPLES / name).iterdir()):
            copy = folder / name / each.name
            write_bytes(copy, each.read_bytes())
            copy.chmod(copy.stat().st_mode | (0o111 if each.suffix == ".sh" else 0))
    write_bytes(path, text.encode())
    say(f"init: {path} written")
    for problem in missing_files(config):
        say(f"  to be filled in: {problem}")
    say(f"next: icons validate {path}")
    if slurm:
        say(f"or on Slurm: bash {folder / 'scripts' / 'submit.sh'} {path}")


def example_lines() -> list[Line]:
    """Every line of configs/example.yaml that has a key, in order; the entries of `tasks` have the key `tasks.-`."""
    lines: list[Line] = []
    section, above = "", list[str]()
    for text in (EXAMPLES / "configs" / "example.yaml").read_text(encoding="utf-8").splitlines():
        match = re.match(r"(  )?(?:(\w+):|-) ?(.*)", text)
        code, _, comment = (match[3] if match else text).partition("#")
        comment = comment.strip()
        if match is None:
            if re.match(r" {20,}#", text):  # goes on from the line above
                last = lines.pop()
                lines.append(Line(last.key, last.value, (*last.beside, comment), last.above))
            elif comment and lines:
                above.append(comment)
            continue
        section = section if match[1] else match[2]
        key = f"{section}.{match[2] or '-'}" if match[1] else section
        lines.append(Line(key, code.strip(), (comment,) if comment else (), tuple(above)))
        above = []
    return lines


def new_config(answers: Answers) -> str:
    """The text of a config: the answers, the most used other keys with their defaults, and what each of them means."""
    given = _values(answers)
    text = [
        "# Paths are relative to this file. On the command line: --set selection.percent=10",
        "# These are the keys that are used most. `icons init DIR --configs` also writes example.yaml, which has all.",
    ]
    for line in example_lines():
        section, _, key = line.key.partition(".")
        if key == "-":
            text += _tasks(line, answers)
        elif not key or key in KEPT.get(section, ()):
            if not key and section not in KEPT and section not in ("output_dir", "tasks", "on_bad_record"):
                continue
            if not key:
                text.append("")
            indent = "  " if key else ""
            text += [f"{indent}# {comment}" for comment in line.above]
            text += _with_comments(f"{indent}{key or section}:", given.get(line.key, line.value), line.beside)
    return "\n".join(text) + "\n"


def _values(answers: Answers) -> dict[str, str]:
    """Key -> YAML, of the keys that are answered; a run lies beside its config unless told otherwise."""
    given = {"output_dir": "run" if answers.output is None else _scalar(_absolute(answers.output))}
    if answers.model is not None:
        given["model.base"] = _scalar(_model(answers.model))
    if answers.data is not None:
        given["train.data"] = _scalar(_absolute(answers.data))
        given["train.images"] = "null"
    if answers.images is not None:
        given["train.images"] = _scalar(_absolute(answers.images))
    return given


def _tasks(line: Line, answers: Answers) -> list[str]:
    """The example's own task, or the answered ones in its place; its tasks of a group as a comment."""
    if "group:" in line.value:
        return _with_comments("  # -", line.value, line.beside)
    if not answers.tasks:
        return _with_comments("  -", line.value, line.beside)
    images = {} if answers.images is None else {"images": _absolute(answers.images)}
    return [f"  - {_flow({'name': name, 'data': _absolute(path), **images})}" for name, path in answers.tasks]


def _with_comments(key: str, value: str, comments: Collection[str]) -> list[str]:
    first, *more = comments or ("",)
    begin = f"{key} {value}".rstrip()
    return [f"{begin:{WIDTH - 1}} # {first}" if first else begin, *(f"{'':{WIDTH}}# {each}" for each in more)]


def _absolute(path: str) -> str:
    return path if is_hub_id(Path(path)) else os.path.abspath(os.path.expanduser(path))


def _model(name: str) -> str:
    """A folder that is there, or that is written as a path, is a path; anything else the id of a model of the Hub."""
    as_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists()
    return _absolute(name) if as_path else name


def _scalar(value: str) -> str:
    if not value.isprintable():
        return json.dumps(value)
    return _flow([value])[1:-1]


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=2**31, sort_keys=False, allow_unicode=True).strip()
