"""Selection methods by name. Adding one is one function with one decorator:

    from icons.selection.registry import Evidence, method

    @method("mean")
    def mean(evidence: Evidence) -> Float64:
        return evidence.scores.mean(axis=1, dtype=np.float64)

The function gives every training row a value; the valid rows with the highest ones are selected, as many as the budget
allows, and `selection.tie_break` decides among equal ones at the cut.

A method says what else of the config it reads, `@method("less", keys=("task",))`: that and nothing more decides
whether a selection is already there. One of your own may have options, `@method("mine", options=Mine)`, where `Mine` is
anything called with the keys of `selection.options` that raises TypeError or ValueError for wrong ones: a dataclass, a
pydantic model. What it returns is `evidence.options`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from icons.selection.consensus import cast_votes, thresholds
from icons.selection.methods import built_in

if TYPE_CHECKING:
    from icons.selection.voters import Voters

Int16 = npt.NDArray[np.int16]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]


class CannotAnswerError(Exception):
    """What a method raises when the evidence lacks what it needs; the text says what, and what to do."""


@dataclass(frozen=True)
class GradientShard:
    """Consecutive training rows [n]: their sketched unit gradients [n, d] and whole gradients' L2 norms [n]."""

    rows: Int64
    unit: Float16
    norms: Float32
    valid: Bool


@dataclass(frozen=True)
class Evidence:
    """What is known about N training rows and K target tasks (a group of tasks is one).

    `scores` [N, K] is the mean cosine of a row's gradient with a task's, `merged` [N] that with the validation rows of
    all tasks together; `losses` [N] the mean loss of a row's target tokens, `norms` [N] the L2 norm of its gradient.
    All of them are 0 where not `valid` [N]. `count` rows will be selected, `percent` of N. `options` has the method's
    keys of the config's `selection` section, or is what the method made of `selection.options`. `gradients` reads the
    training shards one after the other, `voters` what each validation sample says of them; None where there are no
    gradients (exact influence stores scores alone). None of the arrays may be written to: the votes and the cut are
    made of them too.
    """

    scores: Float32
    valid: Bool
    columns: list[str]
    merged: Float32
    losses: Float32
    norms: Float32
    percent: float
    count: int
    seed: int = 0
    options: Any = field(default_factory=dict)
    gradients: Callable[[], Iterator[GradientShard]] | None = None
    voters: Callable[[], Voters] | None = None

    @cached_property
    def thresholds(self) -> Float64:
        """[K]: the score from which on a row is among a task's top `percent`."""
        return thresholds(self.scores, self.valid, self.percent)

    @cached_property
    def votes(self) -> Int16:
        """[N]: for how many tasks a row is among the top `percent`."""
        votes = cast_votes(self.scores, self.valid, self.thresholds)
        votes.flags.writeable = False
        return votes


@dataclass(frozen=True)
class Ranking:
    """A value [N] for every row, and what else a method reports: JSON-like `notes`, and one line for the screen."""

    values: Float64
    notes: dict[str, Any] = field(default_factory=dict)
    summary: str = ""


Function = Callable[[Evidence], Float64 | Ranking]


@dataclass(frozen=True)
class Method:
    """A registered method: `keys` of the `selection` section that it reads, `check` what makes its options."""

    name: str
    function: Function
    keys: tuple[str, ...] = ()
    check: Callable[..., Any] | None = None

    @property
    def is_built_in(self) -> bool:
        return self.name in built_in()

    def options(self, section: Mapping[str, Any]) -> Any:
        """What the function finds in `evidence.options`; ValueError for options that are none of this method's."""
        options = section.get("options") or {}
        if self.check is None:
            if options:
                raise ValueError(f"the method {self.name} has none, found {', '.join(map(str, options))}")
            return {key: section[key] for key in self.keys}
        try:
            return self.check(**options)
        except (TypeError, ValueError) as error:
            raise ValueError(str(error)) from error

    def settings(self, section: Mapping[str, Any]) -> dict[str, Any]:
        """What of the `selection` section decides which rows are selected."""
        keys = {"method", "percent", "tie_break", *self.keys}
        if not self.is_built_in:
            keys |= {"options", "seed"}  # which its file may read without saying so
        if section["tie_break"] == "random":
            keys.add("seed")
        return {key: section[key] for key in sorted(keys)}


_methods: dict[str, Method] = {}


def method(
    name: str, *, keys: tuple[str, ...] = (), options: Callable[..., Any] | None = None
) -> Callable[[Function], Function]:
    """Registers a function as `selection.method: name`. Raises ValueError for a name that is taken."""

    def register(function: Function) -> Function:
        if name in _methods or (name in built_in() and function.__module__ != _module(name)):
            raise ValueError(f"there is a selection method {name!r} already; choose another name")
        _methods[name] = Method(name, function, keys, options)
        return function

    return register


def find_method(name: str) -> Method:
    """Raises KeyError with the known names when there is no such method."""
    if name in built_in():
        import_module(_module(name))
    if name not in _methods:
        raise KeyError(", ".join(sorted({*built_in(), *_methods})))
    return _methods[name]


def rank(method: Method, evidence: Evidence) -> Ranking:
    """What a method says, checked.

    Raises ValueError when it is not one number for every row or has notes that are not JSON, CannotAnswerError when a
    valid row's number is not finite.
    """
    answer = method.function(evidence)
    ranking = answer if isinstance(answer, Ranking) else Ranking(answer)
    answered = np.asarray(ranking.values)
    if answered.dtype.kind not in "biuf":
        raise ValueError(f"it gave values of type {answered.dtype}, expected a number for every row")
    values: Float64 = answered.astype(np.float64)
    if values.shape != evidence.valid.shape:
        raise ValueError(f"it gave values of shape {values.shape}, expected one for each of {len(evidence.valid)} rows")
    if not np.isfinite(values[evidence.valid]).all():
        row = int(np.flatnonzero(evidence.valid & ~np.isfinite(values))[0])
        raise CannotAnswerError(f"its value of row {row} is not a finite number")
    return Ranking(values, _plain_notes(ranking.notes), ranking.summary)


def _plain_notes(notes: Any) -> dict[str, Any]:
    """As reading them back from JSON will give them, NumPy's numbers and arrays among them."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} is not a JSON type")

    try:
        parsed = json.loads(json.dumps(notes, default=plain, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its notes cannot be written as JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"its notes are a {type(notes).__name__}, expected a dict")
    return parsed


def _module(name: str) -> str:
    return f"icons.selection.methods.{name.replace('-', '_')}"
