"""`icons trial`: short trainings on small selections of several methods, and what they say of which one to trust here.

The cheap answer before the GPUs are spent: one gradient store, and of each method as many records and steps.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.config import Config
from icons.errors import UserError
from icons.evaluation.measures import MEASURES, Answers, Interval, difference, mean_over_tasks
from icons.progress import say, say_json
from icons.selection.consensus import budget
from icons.stages.generalist.select import open_scores, select, with_selection
from icons.stages.training.evaluate import Candidate, Results, answer, evaluation_tasks, in_brackets
from icons.stages.training.fit import train
from icons.stages.training.job import Job
from icons.store.checkpoints import our_checkpoints
from icons.store.files import read_sealed, write_sealed
from icons.store.fingerprint import digest
from icons.store.layout import RunFolder
from icons.store.scores import Scores

RANDOM = "random"
FEW_STEPS = 50
"""Below so many steps a training has hardly moved, and differences say little."""


@dataclass(frozen=True)
class Arm:
    """One short training: the method whose rows it is on, the seed of training (and draw), its folder."""

    method: str
    seed: int
    rows: list[int]
    folder: Path

    @property
    def title(self) -> str:
        return f"trial {self.method} seed {self.seed}"


@dataclass(frozen=True)
class Verdict:
    """What came out of a method: the measure of its models, its lead over random (None: random itself), seconds."""

    method: str
    records: int
    value: Interval
    lead: Interval | None
    seconds: float


def trial(
    config: Config,
    methods: list[str],
    *,
    percent: float = 5,
    seeds: int = 2,
    steps: int = 200,
    by: str | None = None,
    as_json: bool = False,
) -> None:
    """Trains on `percent` by each method and at random, `seeds` times, at most `steps` steps; says which to trust.

    Leaves trial/<arm>/ (adapter and answers, which are not made again) and trial/result.json. Raises UserError when a
    method cannot select, or when the part is of less than two records.
    """
    scores = open_scores(config)
    count = budget(len(scores.valid), percent)
    if count < 2:
        raise UserError(f"--percent {percent:g}: {percent:g}% of {len(scores.valid)} records is {count}; give more")
    arms = [
        _arm(config, scores, method, percent, seed, steps)
        for method in dict.fromkeys([*methods, RANDOM])
        for seed in range(seeds)
    ]
    for arm in arms:
        _train(config, arm, steps)
    candidates = [Candidate(arm.folder.name, arm.folder / "final", arm.folder / "answers") for arm in arms]
    tasks = evaluation_tasks(config)
    results = answer(config, candidates, tasks)
    measure = by or _telling(results, [arm.folder.name for arm in arms if arm.method == RANDOM])
    verdicts = _verdicts(arms, results, measure)
    content = {
        "measure": measure,
        "percent": percent,
        "seeds": seeds,
        "steps": _steps(config, count, steps),
        "held_out": bool(config.evaluation.tasks),
        "methods": [_as_json(verdict) for verdict in verdicts],
        "advice": advice(verdicts, measure),
    }
    write_sealed(RunFolder(config.output_dir).trials / "result.json", content)
    if as_json:
        say_json(content)
    else:
        _print(content, verdicts, config, len(scores.valid), count)


def _arm(config: Config, scores: Scores, method: str, percent: float, seed: int, steps: int) -> Arm:
    keys = {"method": method, "percent": percent, "seed": seed, "name": None}
    rows = select(with_selection(config, keys), scores).rows.tolist()
    settings = _settings(config, seed, steps)
    model = config.model.model_dump(mode="json", include={"base", "dtype", "template", "max_length", "lora"})
    if config.model.quantization is not None:  # trials of versions without it keep their folders
        model["quantization"] = config.model.quantization
    what = digest({"rows": rows, "data": scores.data, "settings": settings.model_dump(), **model})
    return Arm(method, seed, rows, RunFolder(config.output_dir).trials / f"{method}-{percent:g}-seed{seed}-{what[:8]}")


def _settings(config: Config, seed: int, steps: int) -> Any:
    limit = config.finetune.max_steps
    return config.finetune.model_copy(update={"seed": seed, "max_steps": min(steps, limit) if limit else steps})


def _steps(config: Config, count: int, steps: int) -> int:
    """Of a training on `count` records in one process."""
    settings = _settings(config, 0, steps)
    an_epoch = -(-count // (settings.batch_size * settings.gradient_accumulation))
    most: int = min(an_epoch * settings.epochs, settings.max_steps)
    return most


def _train(config: Config, arm: Arm, steps: int) -> None:
    timed = arm.folder / "seconds.json"
    job = Job(
        title=arm.title,
        command="trial",
        folder=arm.folder,
        settings=_settings(config, arm.seed, steps),
        rows=lambda records: arm.rows,
        made_of={"rows": digest({"indices": arm.rows})},
        keep=1,
        optimizer_in_final=False,
    )
    begin = time.monotonic()
    train(config, job)
    for path in our_checkpoints(arm.folder):
        shutil.rmtree(path)
    if not timed.is_file():
        write_sealed(timed, {"seconds": round(time.monotonic() - begin, 1)})


def _telling(results: Results, random: list[str]) -> str:
    """`exact` where random models answer some questions and not others; else the loss, which always tells."""
    shares = [_mean(results, name, "exact").mean for name in random]
    return "exact" if all(0.05 < share < 0.95 for share in shares) else "loss"


def _mean(results: Results, name: str, measure: str) -> Interval:
    return mean_over_tasks(_answers(results, name), measure)


def _answers(results: Results, name: str) -> dict[str, Answers]:
    return {task: done.answers for task, done in results[name].items()}


def _verdicts(arms: list[Arm], results: Results, measure: str) -> list[Verdict]:
    """The best first; less loss is better."""
    by_method: dict[str, list[Arm]] = {}
    for arm in arms:
        by_method.setdefault(arm.method, []).append(arm)
    models = {method: [_answers(results, arm.folder.name) for arm in group] for method, group in by_method.items()}
    verdicts = []
    for method, group in by_method.items():
        means = [mean_over_tasks(model, measure) for model in models[method]]
        value = Interval(*(sum(getattr(m, part) for m in means) / len(means) for part in ("mean", "low", "high")))
        lead = None if method == RANDOM else difference(models[method], models[RANDOM], measure)
        if lead is not None and measure == "loss":
            lead = Interval(-lead.mean, -lead.high, -lead.low)
        seconds = sum(_seconds(arm) for arm in group)
        verdicts.append(Verdict(method, len(group[0].rows), value, lead, seconds))
    return sorted(verdicts, key=lambda verdict: 0.0 if verdict.lead is None else -verdict.lead.mean)


def _seconds(arm: Arm) -> float:
    path = arm.folder / "seconds.json"
    return float(read_sealed(path, f"delete {path} and run the trial again")["seconds"])


def advice(verdicts: list[Verdict], measure: str) -> list[str]:
    """What to trust here, in plain words; the best method that is surely ahead of random first."""
    ahead = [v for v in verdicts if v.lead is not None and v.lead.sign > 0]
    behind = [v for v in verdicts if v.lead is not None and v.lead.sign < 0]
    unsure = [v for v in verdicts if v.lead is not None and v.lead.sign == 0]
    lines = []
    if ahead:
        lines.append(f"Use {ahead[0].method}: it beats a random draw here, by {_points(ahead[0], measure)}.")
        lines += [f"{v.method} beats a random draw too, by {_points(v, measure)}." for v in ahead[1:]]
    else:
        lines.append("No method here is surely ahead of a random draw: draw at random, or try more records or seeds.")
    lines += [f"{v.method} is no better than a random draw ({_points(v, measure)})." for v in unsure]
    lines += [f"{v.method} is WORSE than a random draw ({_points(v, measure)}): do not train on it." for v in behind]
    return lines


def _points(verdict: Verdict, measure: str) -> str:
    lead = verdict.lead
    assert lead is not None
    if measure == "loss":
        return f"{lead.mean:+.3f} of token loss saved [{lead.low:+.3f}, {lead.high:+.3f}]"
    return f"{100 * lead.mean:+.1f} points [{100 * lead.low:+.1f}, {100 * lead.high:+.1f}]"


def _as_json(verdict: Verdict) -> dict[str, Any]:
    lead = None if verdict.lead is None else verdict.lead.as_json()
    row = {"method": verdict.method, "records": verdict.records, "seconds": round(verdict.seconds, 1)}
    return row | {"value": verdict.value.as_json(), "lead_over_random": lead}


def _print(content: dict[str, Any], verdicts: list[Verdict], config: Config, num_rows: int, count: int) -> None:
    measure, steps, seeds = content["measure"], content["steps"], content["seeds"]
    say(f"{count} of {num_rows} records each, {steps} steps, {seeds} seeds; {MEASURES[measure]}, mean over the tasks")
    say(f"{'method':<16}{'value':>8}  {'95% interval':<18}{'ahead of random by':<34}{'seconds':>8}")
    for verdict in verdicts:
        value = f"{verdict.value.mean:.3f}" if measure == "loss" else f"{verdict.value.mean:.1%}"
        lead = "" if verdict.lead is None else _points(verdict, measure).replace(" of token loss saved", "")
        between = in_brackets(verdict.value, measure)
        say(f"{verdict.method:<16}{value:>8}  {between:<18}{lead:<34}{verdict.seconds:>8.0f}")
    say("")
    for line in content["advice"]:
        say(line)
    if steps < FEW_STEPS:
        say(f"  Only {steps} steps: too few to trust. Raise --percent, finetune.epochs or --steps.")
    if count > steps * config.finetune.batch_size * config.finetune.gradient_accumulation:
        say(f"  {steps} steps do not see all {count} records; raise --steps, or lower --percent.")
    if not config.evaluation.tasks:
        say("  Measured on the target tasks' own files, which the selections were made with; name evaluation.tasks.")
