"""Text of a data file on a terminal: no escape sequence, no forged row, no endless name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icons.plain import for_terminal, in_line, plain, quoted
from tests.conftest import Project, icons

HOSTILE = "\x1b[31mred\nforged   1  1\u202eback\x9b2J\r"


def records(project: Project) -> Path:
    path = project.root / "data" / "train.json"
    content = json.loads(path.read_text())
    content[0]["conversations"][0]["value"] += f" \x1b]0;PWN\x07\x1b[2J{HOSTILE}"
    content[0]["source"] = HOSTILE
    content[1]["source"] = "half \ud800"
    content[2] |= {"id": "i" * 1_000_000, "conversations": []}
    content[3] |= {"id": HOSTILE, "conversations": []}
    content[4] |= {"image": HOSTILE}
    path.write_text(json.dumps(content))
    return path


def clean(text: str) -> None:
    assert not [c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" or c in "\u202e\ud800"]
    assert max(map(len, text.splitlines())) < 3000
    assert not [line for line in text.splitlines() if line.startswith("forged")]


def test_nothing_of_a_record_commands_the_terminal(project: Project) -> None:
    path = records(project)
    shown = project.icons("inspect", "--row", 0)
    assert shown.code == 0
    assert "\\x1b]0;PWN\\x07" in shown.out
    for c in "\x1b\x9b\x07":
        assert c not in shown.out
    for outcome in (
        project.icons("inspect", "--row", 2),
        project.icons("inspect", "--row", 3),
        project.icons("validate"),
        project.icons("train-grads"),
        icons("compare", path, path),
    ):
        clean(outcome.out + outcome.err)
    table = icons("compare", path, path).out
    assert "\\x1b[31mred\\nforged" in table
    as_json = icons("compare", path, path, "--json")
    assert as_json.code == 0
    groups = {row["group"] for row in json.loads(as_json.out)["by_source"]}
    assert HOSTILE in groups, "in JSON a name is what it is"


@pytest.mark.parametrize("text", ["plain", "ünï 日本 \U0001f469\u200d\U0001f467", "tab\tand\nline"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert for_terminal(text) == plain(text) == text


def test_what_strikes_is_written_out() -> None:
    assert in_line("a\nb\x1b\u2028\ud800") == r"a\nb\x1b\u2028\ud800"
    assert in_line("x" * 500, 10) == "x" * 9 + "…"
    assert len(quoted("x" * 10**6)) < 200
    assert quoted({"a": "x" * 10**6}, 50).startswith("{'a': 'xxx")
    assert plain("a\x1b\ud800b") == "a��b"
