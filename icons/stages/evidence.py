"""What a selection method asks the run folder: scores, losses, norms and, when it wants them, the gradients."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

from icons.config import Config
from icons.errors import UserError
from icons.selection.consensus import budget
from icons.selection.registry import (
    CannotAnswerError,
    Evidence,
    GradientShard,
    Method,
    Ranking,
    find_method,
    rank,
)
from icons.store.index import read_index, recompute
from icons.store.layout import RunFolder
from icons.store.scores import Scores
from icons.store.tensors import Memory

_loaded: set[Path] = set()


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
        return find_method(settings.method)
    except KeyError as known:
        raise UserError(f"selection.method: {settings.method!r} is none of {known.args[0]}") from None


def evidence(config: Config, scores: Scores) -> Evidence:
    settings = config.selection
    return Evidence(
        scores=scores.scores,
        valid=scores.valid,
        columns=scores.columns,
        merged=scores.merged,
        losses=scores.losses,
        norms=scores.norms,
        percent=settings.percent,
        count=budget(len(scores.valid), settings.percent),
        seed=settings.seed,
        options=settings.model_dump(),
        gradients=None if config.gradients.projection == "none" else lambda: _gradients(config),
    )


def ranked(config: Config, found: Method, known: Evidence) -> Ranking:
    """What the method answers; a UserError where it cannot, or what it gives is no value for every row."""
    try:
        return rank(found, known)
    except CannotAnswerError as error:
        raise UserError(f"selection.method {config.selection.method}: {error}") from None
    except ValueError as error:
        if config.selection.plugin is None:
            raise
        raise UserError(f"selection.method {config.selection.method} of {config.selection.plugin}: {error}") from error


def _gradients(config: Config) -> Iterator[GradientShard]:
    """The training shards of the last checkpoint, each whole; good until the next is asked for."""
    index = read_index(RunFolder(config.output_dir).index(config.gradients.checkpoints[-1]))
    memory = Memory()
    for shard in index.shards:
        part = shard.read(index.folder, recompute(shard), ["rows", "grads", "norms", "valid"], memory)
        yield GradientShard(part["rows"], part["grads"], part["norms"], part["valid"])
