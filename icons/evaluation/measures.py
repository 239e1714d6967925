"""What is measured of each answer, and what a set of answers comes to, with bootstrap intervals.

The interval is the percentile bootstrap's (Efron 1979): answers are drawn again with replacement, task by task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

MEASURES = {
    "loss": "mean token loss",
    "token_accuracy": "predicted tokens right",
    "exact": "answers exactly right",
    "generated": "generated answers exactly right",
}
"""Measure -> its words; of `loss` less is better, of the others more."""
DRAWS, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Answers:
    """One model's answers to a task's M valid records: mean loss of the predicted tokens, how many right, of how many.

    A token is right when it is the likeliest behind the right ones before it (teacher-forced). An answer is exact when
    all of its tokens are, the end included: then greedy decoding gives it. `generated` [M] bool: the generated text is
    the answer; None where none was generated.
    """

    losses: Float64
    right: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    generated: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.losses)

    def parts(self, measure: str) -> tuple[Float64, Float64]:
        """Numerators and denominators [M] of a measure: it is the sum of the one by the sum of the other."""
        ones = np.ones(len(self))
        if measure == "loss":
            return self.losses, ones
        if measure == "token_accuracy":
            return self.right.astype(float), self.tokens.astype(float)
        if measure == "exact":
            return (self.right == self.tokens).astype(float), ones
        if measure == "generated" and self.generated is not None:
            return self.generated.astype(float), ones
        raise KeyError(measure)

    @property
    def measures(self) -> list[str]:
        return [name for name in MEASURES if name != "generated" or self.generated is not None]


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on that side of zero, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def measured(answers: Answers, measure: str) -> Interval:
    return mean_over_tasks({"": answers}, measure)


def mean_over_tasks(answers: Mapping[str, Answers], measure: str) -> Interval:
    """The mean of the tasks' values, each task counting alike."""
    parts = [each.parts(measure) for each in answers.values()]
    whole = float(np.mean([top.sum() / bottom.sum() for top, bottom in parts]))
    return _interval(whole, np.mean([_drawn(top[None], bottom[None])[0] for top, bottom in parts], axis=0))


def difference(
    these: Sequence[Mapping[str, Answers]], those: Sequence[Mapping[str, Answers]], measure: str
) -> Interval:
    """Mean over tasks of `these` models less that of `those`, on the same questions: a paired bootstrap.

    Each list holds the models of several seeds, whose values are averaged. Questions are drawn again for all models
    alike, and so are the models of either list, so that the spread over seeds is in the interval too.
    """
    lottery = np.random.Generator(np.random.PCG64(1))
    picks = [lottery.integers(0, len(side), (DRAWS, len(side))) for side in (these, those)]
    whole, drawn = 0.0, np.zeros(DRAWS)
    for task in these[0]:
        for side, models, sign in zip(picks, (these, those), (1, -1), strict=True):
            parts = [model[task].parts(measure) for model in models]
            tops, bottoms = np.stack([top for top, _ in parts]), np.stack([bottom for _, bottom in parts])
            values_SD = _drawn(tops, bottoms)  # the same questions for every model: one seed a task's size
            whole += sign * float((tops.sum(1) / bottoms.sum(1)).mean())
            drawn += sign * np.take_along_axis(values_SD, side.T, axis=0).mean(axis=0)
    return _interval(whole / len(these[0]), drawn / len(these[0]))


def _drawn(tops_SM: Float64, bottoms_SM: Float64) -> Float64:
    """[S, DRAWS]: the ratio of sums over questions drawn again, the same ones for each of S models."""
    count = tops_SM.shape[1]
    times_DM = np.random.Generator(np.random.PCG64(count)).multinomial(count, np.full(count, 1 / count), DRAWS)
    values: Float64 = (tops_SM @ times_DM.T) / np.maximum(bottoms_SM @ times_DM.T, 1e-300)
    return values


def _interval(mean: float, drawn: Float64) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))
