"""`icons evaluate`: how well what was trained answers records that it has not seen, model by model."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icons.config import Config, TaskConfig
from icons.data.sets import data_digest, open_records
from icons.errors import UserError
from icons.evaluation.measures import MEASURES, Answers, Interval, mean_over_tasks, measured
from icons.parent import end_with_the_parent
from icons.progress import say, say_json, tell
from icons.stages.specialist.described import input_settings
from icons.stages.specialist.workers import devices
from icons.store.evaluations import TaskAnswers, read_answers, write_answers
from icons.store.files import read_sealed
from icons.store.fingerprint import Fingerprint, digest, file_digest, model_digest
from icons.store.layout import RunFolder
from icons.store.lock import only_one_process
from icons.store.whole import damaged, is_marked

if TYPE_CHECKING:
    from icons.models.vlm import VisionLanguageModel

BASE, WARMUP = "base", "warmup"
ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True)
class Candidate:
    """A model to be asked: its name, its adapter (None: the model as it is), the folder for its answers."""

    name: str
    adapter: Path | None
    folder: Path


Results = dict[str, dict[str, TaskAnswers]]
"""Candidate -> task -> answers."""


def evaluate(config: Config, names: list[str] | None = None, *, generate: bool = False, as_json: bool = False) -> None:
    """Asks every model under finetune/ and the warm-up's (or those of `names`; `base` is the model as it is).

    Writes evaluation/<name>/<task>.safetensors and .json, task by task; what is there is not computed again. Raises
    UserError for a name that is not there.
    """
    candidates = _candidates(config, names or [])
    results = answer(config, candidates, evaluation_tasks(config), generate=generate)
    if as_json:
        say_json(table(results))
        return
    _print(results)
    if not config.evaluation.tasks:
        say(
            "  These are the target tasks' own files, which the selection was made with: an optimistic measure. "
            "Name others in evaluation.tasks."
        )


def evaluation_tasks(config: Config) -> list[TaskConfig]:
    """`evaluation.tasks`, or the target tasks."""
    return list(config.evaluation.tasks or config.tasks)


def answer(config: Config, candidates: list[Candidate], tasks: list[TaskConfig], *, generate: bool = False) -> Results:
    """The answers of every candidate to every task, those computed that are not there; one model a device at a time."""
    results: Results = {candidate.name: {} for candidate in candidates}
    missing: list[tuple[Candidate, list[TaskConfig]]] = []
    for candidate in candidates:
        stored = {task.name: read_answers(candidate.folder, task.name) for task in tasks}
        made_of = {task.name: digest(_fingerprint(config, candidate, task)) for task in tasks}
        open_tasks = []
        for task in tasks:
            done = stored[task.name]
            whole = done is not None and digest(done.fingerprint) == made_of[task.name]
            if done is None or not whole or (generate and done.answers.generated is None):
                open_tasks.append(task)
        if open_tasks:
            missing.append((candidate, open_tasks))
    _compute(config, missing, generate=generate)
    for candidate in candidates:
        for task in tasks:
            done = read_answers(candidate.folder, task.name)
            if done is None:
                raise UserError(f"{candidate.folder / task.name}.json is missing or damaged; run the command again")
            results[candidate.name][task.name] = done
    return results


def _compute(config: Config, missing: list[tuple[Candidate, list[TaskConfig]]], *, generate: bool) -> None:
    places = devices(config)[: len(missing)]
    if len(places) <= 1:
        for candidate, tasks in missing:
            _answer_candidate(config, candidate, tasks, generate)
        return
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    for place in places:
        free.put(place)
    with ProcessPoolExecutor(len(places), mp_context=context, initializer=_bind, initargs=(free,)) as pool:
        for done in [pool.submit(_answer_on_own_device, config, *each, generate) for each in missing]:
            done.result()


_place = ""


def _bind(free: Any) -> None:
    global _place
    from icons.models.place import take_device

    end_with_the_parent()
    _place = free.get()
    take_device(_place)


def _answer_on_own_device(config: Config, candidate: Candidate, tasks: list[TaskConfig], generate: bool) -> None:
    model = config.model.model_copy(update={"device": _place})
    _answer_candidate(config.model_copy(update={"model": model}), candidate, tasks, generate)


def _answer_candidate(config: Config, candidate: Candidate, tasks: list[TaskConfig], generate: bool) -> None:
    from icons.models.place import computing
    from icons.stages.training.answers import answer_task

    _require_whole(candidate)
    with only_one_process(candidate.folder):
        before = {task.name: _fingerprint(config, candidate, task) for task in tasks}
        model = _load(config, candidate)
        tell(f"{candidate.name}: {computing(model)}")
        for task in tasks:
            begin, made_of = time.monotonic(), before[task.name]
            answers, bad = answer_task(config, model, task, f"{candidate.name} on {task.name}", generate=generate)
            if _fingerprint(config, candidate, task) != made_of:
                raise UserError(f"{task.title} or the adapter changed while {candidate.name} was asked; run it again")
            seconds = time.monotonic() - begin
            write_answers(candidate.folder, TaskAnswers(task.name, answers, made_of, bad, seconds))


def _require_whole(candidate: Candidate) -> None:
    """Of an adapter that icons trained; a UserError when it is not as it was written."""
    if candidate.adapter is not None and is_marked(candidate.adapter):
        for path in damaged(candidate.adapter, [ADAPTER, "adapter_config.json"]):
            raise UserError(
                f"{path} is damaged (not as the training wrote it); run that training again, which makes it of its "
                "newest checkpoint"
            )


def _load(config: Config, candidate: Candidate) -> VisionLanguageModel:
    from icons.models.adapters import attach_adapter
    from icons.models.loading import load_base

    model = load_base(config.model)
    if candidate.adapter is not None:
        model = attach_adapter(model, candidate.adapter)
    model.peft.eval()
    return model


def _fingerprint(config: Config, candidate: Candidate, task: TaskConfig) -> Fingerprint:
    from icons.models.folders import model_folder

    return {
        "base_model": model_digest(model_folder(config.model.base)),
        "adapter": None if candidate.adapter is None else file_digest(candidate.adapter / ADAPTER)[:16],
        "data": data_digest(task.parts)[:16],
        "num_rows": len(open_records(task.parts)),
        **input_settings(config.model),
    }


def _candidates(config: Config, names: list[str]) -> list[Candidate]:
    folder = RunFolder(config.output_dir)
    trained = trained_names(config)
    warmup = folder.adapter("final", config.model.adapter)
    there = [*([WARMUP] if (warmup / ADAPTER).is_file() else []), *trained]
    for name in names:
        if name not in [*there, BASE]:
            raise UserError(
                f"--of {name}: there is no finished finetune of that name; there are {', '.join([BASE, *there])}"
            )
    if not names and not there:
        raise UserError(f"nothing to evaluate in {folder.root} yet; run `icons warmup` or `icons finetune` first")
    adapters = {BASE: None, WARMUP: warmup} | {name: folder.finetune(name) / "final" for name in trained}
    return [Candidate(name, adapters[name], folder.evaluation(name)) for name in dict.fromkeys(names or there)]


def trained_names(config: Config) -> list[str]:
    """The finished folders under finetune/, everything first, then by name."""
    root = RunFolder(config.output_dir).root / "finetune"
    names = []
    for marker in sorted(root.glob("*/manifest.json")):
        try:
            complete = read_sealed(marker, "").get("complete")
        except UserError:
            continue
        if complete and (marker.parent / "final" / ADAPTER).is_file():
            names.append(marker.parent.name)
    return sorted(names, key=lambda name: (name != "everything", name))


def table(results: Results) -> list[dict[str, Any]]:
    """A row for each model and task, and one for the mean over the tasks (`task` null): every measure's interval."""
    rows: list[dict[str, Any]] = []
    for name, tasks in results.items():
        for task, done in tasks.items():
            row = {"name": name, "task": task, "rows": len(done.answers), "bad": done.bad}
            rows.append(row | {m: measured(done.answers, m).as_json() for m in done.answers.measures})
        answers = {task: done.answers for task, done in tasks.items()}
        row = {"name": name, "task": None, "rows": sum(map(len, answers.values()))}
        rows.append(row | {m: mean_over_tasks(answers, m).as_json() for m in _common(answers.values())})
    return rows


def _common(answers: Iterable[Answers]) -> list[str]:
    each = [a.measures for a in answers]
    return [measure for measure in MEASURES if all(measure in measures for measures in each)]


def _print(results: Results) -> None:
    width = max(len(name) for name in results) + 2
    tasks = list(next(iter(results.values())))
    columns = [max(len(task), 7) + 2 for task in tasks]
    for measure, words in MEASURES.items():
        if not all(measure in done.answers.measures for each in results.values() for done in each.values()):
            continue
        say(f"{words}, and their mean over the tasks with its 95% interval")
        say(
            " " * width
            + "".join(f"{task:>{size}}" for task, size in zip(tasks, columns, strict=True))
            + f"{'mean':>10}"
        )
        for name, each in results.items():
            cells = [_number(measured(done.answers, measure).mean, measure) for done in each.values()]
            mean = mean_over_tasks({task: done.answers for task, done in each.items()}, measure)
            line = "".join(f"{cell:>{size}}" for cell, size in zip(cells, columns, strict=True))
            say(f"{name:<{width}}{line}{_number(mean.mean, measure):>10}  {in_brackets(mean, measure)}")
        say("")


def _number(value: float, measure: str) -> str:
    return f"{value:.3f}" if measure == "loss" else f"{100 * value:.1f}%"


def in_brackets(interval: Interval, measure: str) -> str:
    return f"[{_number(interval.low, measure)}, {_number(interval.high, measure)}]"
