"""A run from Python: what its stages left, as arrays, and selections of it that write nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from icons.config import Config
from icons.config_file import load_config
from icons.data.records import Records
from icons.errors import UserError
from icons.stages.generalist.select import Selected, cast, open_scores, open_training, select, with_selection
from icons.store.layout import RunFolder
from icons.store.scores import Scores
from icons.store.selection import StoredSelection, read_selection, selection_names


def open_run(path: str | Path, overrides: Sequence[str] = ()) -> OpenedRun:
    """The run of a config file; `overrides` are those of `--set`: `["selection.percent=10"]`.

    Nothing but the config is read yet, and no file is ever written to the run. Raises UserError (`icons.UserError`),
    as everything below does, in the words that the command line has.
    """
    return OpenedRun(load_config(Path(path), overrides))


class OpenedRun:
    """N training records, K columns of scores (a task, or a group of tasks); each part is read when it is asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        """Every key of the config file with its default, typed and frozen, paths absolute."""

    def __repr__(self) -> str:
        return f"<icons run {self.config.output_dir}>"

    @cached_property
    def scores(self) -> Scores:
        """What is known about each training row: `scores` [N, K] float32, `columns`, `valid`, `losses`, `norms`.

        `scores.table()` is the same as a pandas DataFrame. Raises UserError before `icons specialist`, and where the
        scores are damaged, or of other tasks, data or settings than the config's.
        """
        return open_scores(self.config)

    @cached_property
    def votes(self) -> npt.NDArray[np.int16]:
        """[N]: for how many of the K columns a row is among the top `config.selection.percent`; 0 where not valid."""
        return cast(self.config, self.scores)

    @cached_property
    def records(self) -> Records:
        """The N training records in LLaVA's form, whatever they lie in: `records[row]` is a dict.

        Raises UserError where the data are no longer those of the scores; `records[row]` does of a broken record.
        """
        return open_training(self.config, self.scores)

    @property
    def selections(self) -> list[str]:
        """The names of the finished selections."""
        return selection_names(RunFolder(self.config.output_dir).selections)

    def selection(self, name: str | None = None) -> StoredSelection:
        """A selection as `icons generalist` left it; without a name that of the config.

        `selected` [N] bool, `votes` [N] int16, `values` [N] float64 that the method ranked by. Raises UserError where
        there is none of that name, or it is damaged or of other data.
        """
        name = name or self.config.selection.name
        if name not in self.selections:
            there = ", ".join(self.selections) or "none yet"
            raise UserError(f"no selection {name!r} in {self.config.output_dir}; there are: {there}")
        stored = read_selection(RunFolder(self.config.output_dir).selection(name))
        if stored.head["data"] != self.scores.data:
            raise UserError(f"selection {name} was made of other data than the scores; run `icons generalist` again")
        return stored

    def select(self, method: str | None = None, percent: float | None = None, **keys: Any) -> Selected:
        """The rows that a method selects, and nothing written: `rows` [n] int64, ascending.

        Also `ranking.values` [N] float64 by which they were chosen, `cut` where, and `evidence` that the method had.
        `keys` are others of the config's `selection` section, such as `seed`, `task`, `tie_break` or `plugin`; one that
        has keys of its own, `spice={"pool": 64}`, is replaced as a whole. What is not given is the config's. A method
        that reads gradients needs those that `icons train-grads` and `icons val-grads` left.

        Raises UserError for a key or a value that is none, and where nothing would be selected.
        """
        asked = {"method": method, "percent": percent}
        keys |= {key: value for key, value in asked.items() if value is not None}
        if keys.get("plugin"):
            keys["plugin"] = Path(keys["plugin"]).absolute()
        return select(with_selection(self.config, keys), self.scores)
