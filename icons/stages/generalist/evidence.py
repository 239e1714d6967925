"""What a selection method asks the run folder: scores, losses, norms and, when it wants them, the gradients."""

from __future__ import annotations

import runpy
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from icons.config import Config
from icons.errors import UserError
from icons.selection.consensus import budget
from icons.selection.methods import built_in
from icons.selection.registry import (
    CannotAnswerError,
    Evidence,
    GradientShard,
    Method,
    Ranking,
    find_method,
    rank,
)
from icons.stages.specialist.specialist import scores_fingerprint
from icons.store.fingerprint import digest
from icons.store.index import read_index, recompute
from icons.store.layout import RunFolder
from icons.store.scores import Scores
from icons.store.tensors import Memory

if TYPE_CHECKING:
    from icons.selection.voters import Voters

_loaded: set[Path] = set()

_Number = TypeVar("_Number", bound=np.generic)


def selection_method(config: Config) -> Method:
    """The function of `selection.method`, `selection.plugin` executed first; a UserError when there is none."""
    settings = config.selection
    if settings.plugin is not None and settings.plugin not in _loaded:
        try:
            runpy.run_path(str(settings.plugin), run_name=f"icons_plugin_{settings.plugin.stem}")
        except (Exception, SystemExit) as error:
            raise UserError(f"selection.plugin: {settings.plugin}: {type(error).__name__}: {error}") from error
        _loaded.add(settings.plugin)
    try:
        method = find_method(settings.method)
    except KeyError as names:
        raise UserError(f"selection.method: {settings.method!r} is none of {names.args[0]}") from None
    _options(config, method)
    return method


def _options(config: Config, method: Method) -> Any:
    try:
        return method.options(config.selection.model_dump(mode="json"))
    except ValueError as error:
        raise UserError(f"selection.options: {error}") from None


def evidence(config: Config, method: Method, scores: Scores, half: int | None = None) -> Evidence:
    """What `method` may ask of a run whose table of scores is read.

    `half` 0 or 1: the scores are of the even or the odd valid validation rows of each task, and so are the voters.
    """
    settings = config.selection
    return Evidence(
        scores=_read_only(scores.scores),
        valid=_read_only(scores.valid),
        columns=scores.columns,
        merged=_read_only(scores.merged),
        losses=_read_only(scores.losses),
        norms=_read_only(scores.norms),
        percent=settings.percent,
        count=budget(len(scores.valid), settings.percent),
        seed=settings.seed,
        options=_options(config, method),
        gradients=None if config.gradients.exact else lambda: _gradients(config, scores),
        voters=None if config.gradients.exact else lambda: _voters(config, scores, half),
    )


def _require_rows_of(scores: Scores, config: Config) -> None:
    """Raises UserError when the gradient rows are no longer those that the scores were made of."""
    indices = [read_index(RunFolder(config.output_dir).index(each)) for each in config.gradients.checkpoints]
    if digest(scores_fingerprint(config, indices)) != scores.fingerprint:
        raise UserError(
            f"{RunFolder(config.output_dir).scores} is not of the gradient rows that are there by now, which "
            f"selection.method {config.selection.method} reads; run `icons specialist` again"
        )


def _voters(config: Config, scores: Scores, half: int | None) -> Voters:
    from icons.stages.generalist.voters import open_voters  # loads torch

    _require_rows_of(scores, config)
    return open_voters(config, half)


def ranked(config: Config, method: Method, evidence: Evidence) -> Ranking:
    """What the method answers; a UserError where it cannot, or what it gives is no value for every row.

    Of a plugin's method every exception is one, with the plugin's line.
    """
    settings = config.selection
    plugin = None if settings.method in built_in() else settings.plugin
    title = f"selection.method {settings.method}" + (f" of {plugin}" if plugin else "")
    try:
        return rank(method, evidence)
    except UserError:
        raise  # of a damaged shard
    except CannotAnswerError as error:
        raise UserError(f"{title}: {error}") from None
    except (Exception, SystemExit) as error:
        if plugin is None:
            raise
        lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(plugin)]
        where = f" line {lines[-1]}: {type(error).__name__}" if lines else ""
        raise UserError(f"{title}{where}: {error}") from error


def _read_only(array: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    view = array.view()
    view.flags.writeable = False
    return view


def _gradients(config: Config, scores: Scores) -> Iterator[GradientShard]:
    """The training shards of the last checkpoint, each whole; good until the next is asked for."""
    _require_rows_of(scores, config)
    index = read_index(RunFolder(config.output_dir).index(config.gradients.checkpoints[-1]))
    memory = Memory()
    for shard in index.shards:
        part = shard.read(index.folder, recompute(shard), ["rows", "grads", "norms", "valid"], memory)
        yield GradientShard(part["rows"], part["grads"], part["norms"], part["valid"])
