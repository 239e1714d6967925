"""ICONS: influence consensus for vision-language data selection (arXiv 2501.00654).

`open_run` opens a run, `projected` gives per-sample gradients of a model of one's own; docs/python.md shows both.
Nothing is loaded before it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icons.errors import UserError as UserError
    from icons.gradients.causal_lm import Projected as Projected
    from icons.gradients.causal_lm import projected as projected
    from icons.opened_run import OpenedRun as OpenedRun
    from icons.opened_run import open_run as open_run

__version__ = "0.1.0"
__all__ = ["OpenedRun", "Projected", "UserError", "__version__", "open_run", "projected"]

_PLACES = {
    "OpenedRun": "icons.opened_run",
    "Projected": "icons.gradients.causal_lm",
    "UserError": "icons.errors",
    "open_run": "icons.opened_run",
    "projected": "icons.gradients.causal_lm",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'icons' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
