"""Folders that others wrote: whatever a library makes of a file in them that is odd becomes one line that names it."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from icons.errors import UserError
from icons.plain import in_line

_CODE = ("attn_implementation", "experts_implementation", "kernel")
"""Words in the keys of a config.json that may name code to be fetched and run."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Every error inside but a UserError becomes one that begins with `what`; lack of memory stays what it is."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        # A panic of the tokenizers library is no Exception.
        foreign = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if not foreign or "out of memory" in str(error):
            raise
        raise UserError(f"{what} ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none or says only a key."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    bare = isinstance(error, KeyError | IndexError | AttributeError | TypeError | AssertionError)
    return in_line(f"{type(error).__name__}: {first}" if bare or not first else first, 300)


def require_plain_folder(folder: Path, what: str) -> None:
    """Raises UserError, beginning with `what`, for entries that cannot be read: dangling links, pipes, devices."""
    try:
        for path in sorted(folder.iterdir()):
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:
                raise UserError(f"{what}: {path} is a link to a file that is not there") from None
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{what}: {path} is no regular file (a pipe, a socket or a device)")
    except OSError as error:
        raise UserError(f"{what}: {folder} cannot be read ({error.strerror})") from None


def require_own_code_only(folder: Path) -> None:
    """Raises UserError when config.json names a kernel of the Hub: code that would be fetched and run unasked."""
    path = folder / "config.json"
    try:
        settings: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model.base: {path} cannot be read as JSON ({in_line(error, 200)})") from None
    if not isinstance(settings, dict):
        raise UserError(f"model.base: {path} holds a {type(settings).__name__}; expected an object")
    for key, value in _settings(settings, 0):
        if isinstance(value, str) and "/" in value and any(word in key for word in _CODE):
            raise UserError(
                f"model.base: {path} names code of the Hub ({in_line(key)}: {in_line(value)}), which would be fetched "
                "and run; take that key out of it, or read that code and set model.trust_remote_code: true"
            )


def _settings(node: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Every key of an object and of those within it, a few deep, with a text's or a mapping's value."""
    if depth > 8 or not isinstance(node, dict):
        return
    for key, value in node.items():
        yield key, value
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", inner) for name, inner in _settings(value, depth + 1))
