"""The commands of docs/reproduce.md as they are run here: small values in the place of large ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "reproduce.md"


def preparations() -> str:
    """What the page has a reader do with a selection before other trainers read it, as one script."""
    section = PAGE.read_text().split("### With another trainer\n")[1].split("\n## ")[0]
    return "set -euo pipefail\n" + "".join(block for block in _blocks(section) if not block.startswith("# needs"))


def block(first_line: str) -> str:
    """The one block that begins with this line."""
    (found,) = (block for block in _blocks(PAGE.read_text()) if block.splitlines()[0] == first_line)
    return found


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def command(first_line: str) -> tuple[dict[str, str], list[str]]:
    """The one command of a block, as environment variables and words."""
    words = shlex.split(block(first_line).replace("\\\n", " "), comments=True)
    variables = {}
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, value = words.pop(0).split("=", 1)
        variables[name] = value
    return variables, words


def changed(words: list[str], options: Mapping[str, str | None]) -> list[str]:
    """The words with other values behind these options; None takes one out, one that is not there is added.

    Every option of the command has one value, as those of the page have.
    """
    result, left = list(words), dict(options)
    for name in [name for name in options if name in words]:
        at, value = result.index(name), left.pop(name)
        result[at : at + 2] = [] if value is None else [name, value]
    return [*result, *(word for name, value in left.items() if value is not None for word in (name, value))]
