"""YAML of moderate size as plain values, with the line of every key; whatever is odd in it is one line with its place.

A file of a few hundred bytes can stand for billions of values (aliases of aliases), for a list that contains itself, or
for numbers of any length: all of that is refused before it is built.
"""

from __future__ import annotations

from typing import Any, NoReturn

import yaml

from icons.errors import UserError

MOST_CHARACTERS = 4 << 20
MOST_VALUES = 100_000
DEEPEST = 50
LONGEST_NUMBER = 400

Lines = dict[tuple[str | int, ...], int]
"""Path of keys and positions -> line, counted from 1."""


def read_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """The value of a document, and its lines; a UserError that begins with `where` the text stands."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{where}: {len(text):,} characters; expected a config of at most {MOST_CHARACTERS:,}")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _Look(where).lines_of(root) if root is not None else {}
        return (None if root is None else _Loader(where).value_of(root)), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{where}{place}: not valid YAML ({problem})") from None
    except RecursionError:
        raise UserError(f"{where}: lists or keys within each other more than {DEEPEST} deep") from None


class _Look:
    """Goes through the nodes as often as they stand for values, and stops where that is too often or too deep."""

    def __init__(self, where: str) -> None:
        self.where, self.count, self.lines = where, 0, Lines()

    def lines_of(self, root: yaml.Node) -> Lines:
        self._walk(root, ())
        return self.lines

    def _walk(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
        self.count += 1
        if self.count > MOST_VALUES:
            _refuse(self.where, node, f"the file stands for more than {MOST_VALUES:,} values (aliases of aliases?)")
        if len(path) > DEEPEST:
            _refuse(self.where, node, f"lists or keys within each other more than {DEEPEST} deep, or in themselves")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                if name is None:
                    _refuse(self.where, key, "a list or mapping stands as a key; expected a name")
                if (*path, name) in self.lines:
                    _refuse(self.where, key, f"the key {name!r:.100} stands twice")
                self.lines[(*path, name)] = key.start_mark.line + 1
                self._walk(value, (*path, name))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.lines[(*path, index)] = value.start_mark.line + 1
                self._walk(value, (*path, index))


class _Loader:
    """Builds the values; a scalar that its own tag cannot be made of is refused with its line."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._yaml = yaml.SafeLoader("")

    def value_of(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            if node.tag != "tag:yaml.org,2002:map":
                _refuse(self.where, node, f"the tag {node.tag!r:.100} is not known here")
            self._yaml.flatten_mapping(node)  # `<<: *defaults`
            return {key.value: self.value_of(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode):
            if node.tag != "tag:yaml.org,2002:seq":
                _refuse(self.where, node, f"the tag {node.tag!r:.100} is not known here")
            return [self.value_of(value) for value in node.value]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        numeric = node.tag.endswith((":int", ":float"))
        if numeric and len(node.value) > LONGEST_NUMBER:
            _refuse(self.where, node, f"a number of {len(node.value):,} characters")
        try:
            return self._yaml.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            kind, problem = node.tag.rpartition(":")[2], getattr(error, "problem", None) or error
            _refuse(self.where, node, f"{node.value!r:.60} cannot be read as {kind} ({problem})")


def _refuse(where: str, node: yaml.Node, problem: str) -> NoReturn:
    raise UserError(f"{where} line {node.start_mark.line + 1}: {problem}")
