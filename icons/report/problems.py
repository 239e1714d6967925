"""Whether to trust it: the records that could not be used, by kind of reason."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from icons.plain import plain

_WHERE = re.compile(
    r"^.*? (?:row \d+(?: \(id (?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^)]*)\))?|line \d+ \(row \d+\)): "
)
_KINDS, _EXAMPLES, _LENGTH = 20, 5, 400


@dataclass(frozen=True)
class Problem:
    """Records with one kind of reason, and the first few of these as they were written."""

    kind: str
    count: int
    examples: list[str]


def by_kind(reasons: Iterable[str], most: int = _KINDS) -> list[Problem]:
    """The most frequent kind first, those beyond `most` as one; a kind is a reason but for place, names and numbers."""
    kinds: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for reason in reasons:
        kind = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d[\d,]*", "…", _WHERE.sub("", reason))
        kind = plain(kind, _LENGTH)
        counts[kind] = counts.get(kind, 0) + 1
        if len(examples := kinds.setdefault(kind, [])) < _EXAMPLES:
            examples.append(plain(reason, _LENGTH))
    problems = [Problem(kind, counts[kind], examples) for kind, examples in kinds.items()]
    problems.sort(key=lambda problem: (-problem.count, problem.kind))
    rest = problems[most:]
    if not rest:
        return problems
    others = Problem(f"(of {len(rest)} other kinds)", sum(each.count for each in rest), rest[0].examples)
    return [*problems[:most], others]
