"""Which rows a method selects, of the run's scores; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from icons.config import Config, SelectionConfig
from icons.data.records import Records
from icons.data.sets import data_digest, open_records
from icons.errors import UserError
from icons.selection.consensus import Int64, cast_votes, highest, percentile_ranks, thresholds
from icons.selection.cut import Cut, cut_of
from icons.selection.registry import Evidence, Int16, Method, Ranking
from icons.stages.generalist.evidence import evidence, ranked, selection_method
from icons.stages.specialist.described import described, difference
from icons.store.fingerprint import digest, file_digest
from icons.store.layout import RunFolder
from icons.store.scores import Scores, read_scores


@dataclass(frozen=True)
class Selected:
    """Ascending `rows` of the training file, what the method answered, and where its values were cut."""

    rows: Int64
    ranking: Ranking
    cut: Cut
    evidence: Evidence


def open_scores(config: Config) -> Scores:
    """Raises UserError when the scores are missing, or of other tasks, data or settings than the config's."""
    scores = read_scores(RunFolder(config.output_dir).scores)
    if scores.columns != list(config.columns):
        raise UserError(
            f"the scores are of the tasks {', '.join(scores.columns)}, the config names {', '.join(config.columns)}; "
            "run `icons specialist` again"
        )
    if data_digest(config.train.parts)[:16] != scores.data:
        raise UserError(f"{config.train.title} is not the file that the scores were made of; run the stages again")
    if other := difference(scores.asked, described(config)):
        raise UserError(
            f"{RunFolder(config.output_dir).scores} is not of this config: {other}; set it back, or run `icons run`, "
            "which says what has to be computed again"
        )
    return scores


def open_training(config: Config, scores: Scores) -> Records:
    """The training records that the scores are of; a UserError when the file is another by now."""
    records = open_records(config.train.parts)
    if records.sha256[:16] != scores.data:
        raise UserError(f"{config.train.title} is not the file that the scores were made of; run the stages again")
    return records


def cast(config: Config, scores: Scores) -> Int16:
    """Votes [N]: for how many columns of the scores a row is among the top `selection.percent`; 0 where not valid."""
    if not scores.valid.any():
        return np.zeros(len(scores.valid), np.int16)
    return cast_votes(scores.scores, scores.valid, thresholds(scores.scores, scores.valid, config.selection.percent))


def with_selection(config: Config, keys: Mapping[str, Any]) -> Config:
    """The config with other keys of its `selection` section; a UserError when they are no selection."""
    try:
        selection = SelectionConfig.model_validate({**config.selection.model_dump(), **keys})
        return Config.model_validate({**config.model_dump(), "selection": selection.model_dump()})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["selection", *map(str, first["loc"])])
        raise UserError(f"{key}: {str(first['msg']).removeprefix('Value error, ')}") from None


def about_percent(percent: float, num_rows: int) -> str | None:
    """What to say of a percentage that may be meant as a share."""
    if percent >= 1:
        return None
    return f"selection.percent {percent:g} is {percent:g}%, {int(percent * num_rows / 100)} records; 20 means a fifth"


def selection_fingerprint(config: Config, method: Method, scores: Scores) -> str:
    """Of all that decides the selection."""
    return digest({"scores": scores.fingerprint, **selection_settings(config, method)})


def selection_settings(config: Config, method: Method) -> dict[str, Any]:
    """What beside the scores decides the selection: what no method of this name reads is not in it."""
    plugin = file_digest(config.selection.plugin) if config.selection.plugin and not method.is_built_in else None
    return method.settings(config.selection.model_dump(mode="json")) | {"plugin": plugin}


def select(config: Config, scores: Scores, half: int | None = None) -> Selected:
    """By `selection.method`; `half` as in `evidence`. Raises UserError when nothing would be selected."""
    settings, method = config.selection, selection_method(config)
    seen = evidence(config, method, scores, half)
    if seen.count == 0 or not scores.valid.any():
        many = f"{settings.percent}% of {len(scores.valid)} records is less than one"
        why = "no row is valid" if seen.count else many
        raise UserError(f"nothing to select: {why}; raise selection.percent or mend the data")
    ranking = ranked(config, method, seen)
    ranks = percentile_ranks(scores.scores, scores.valid)
    rows = highest(ranking.values, ranks, scores.valid, seen.count, settings.tie_break, settings.seed)
    return Selected(rows, ranking, cut_of(ranking.values, scores.valid, rows), seen)
