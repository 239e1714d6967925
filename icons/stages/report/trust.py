"""What the doubts and the section "Did it help" of a page are made of, as far as the run folder still has it."""

from __future__ import annotations

import math

import numpy as np

from icons.config import Config
from icons.data.sets import data_digest
from icons.errors import UserError
from icons.evaluation.measures import Answers
from icons.selection.influence import mean_direction
from icons.stages.specialist.directions import complete_task
from icons.stages.training.evaluate import ADAPTER, BASE, WARMUP, evaluation_tasks, trained_names
from icons.store.evaluations import read_answers
from icons.store.files import read_sealed
from icons.store.fingerprint import file_digest
from icons.store.layout import RunFolder


def valid_samples(config: Config) -> dict[str, int]:
    """Valid validation samples of each column; empty where a task's rows are gone."""
    counts: dict[str, int] = {}
    for column, members in config.columns.items():
        for task in members:
            try:
                manifest = complete_task(config, config.gradients.checkpoints[-1], task)
            except UserError:
                return {}
            valid = manifest.rows_done - sum(shard.invalid for shard in manifest.shards)
            counts[column] = counts.get(column, 0) + valid
    return counts


def score_noise(config: Config) -> list[float]:
    """The projection's root mean square error of a score, by column; 0 for exact scores and where rows are gone.

    A product of a unit row with a vector v, both projected to d numbers, is off by about |v| / sqrt(d). A score is the
    product with the mean of a task's unit rows, which is shorter than one: the less the rows agree, the less noise.
    """
    if config.gradients.exact:
        return [0.0] * len(config.columns)
    noise = []
    for members in config.columns.values():
        try:
            noise.append(max(_length(config, task) for task in members) / math.sqrt(config.gradients.dim))
        except UserError:
            noise.append(0.0)
    return noise


def _length(config: Config, task: str) -> float:
    checkpoint = config.gradients.checkpoints[-1]
    folder, again = RunFolder(config.output_dir).task(checkpoint, task), f"run `icons val-grads --task {task}`"
    shards = complete_task(config, checkpoint, task).shards
    read = (shard.read(folder, again, ["grads", "valid"]) for shard in shards)
    try:
        return float(np.linalg.norm(mean_direction((part["grads"], part["valid"]) for part in read)))
    except ValueError:
        return 0.0


def warmup_steps(config: Config) -> int | None:
    """How many steps this run's warm-up had; None where the adapter is another one, or the folder is gone."""
    if config.model.adapter is not None:
        return None
    try:
        return int(read_sealed(RunFolder(config.output_dir).warmup / "manifest.json", "")["steps"])
    except (UserError, KeyError):
        return None


def stored_answers(config: Config) -> dict[str, dict[str, Answers]]:
    """What `icons evaluate` has asked: of every model that is still the one that answered, all evaluation tasks."""
    folder, tasks = RunFolder(config.output_dir), evaluation_tasks(config)
    results: dict[str, dict[str, Answers]] = {}
    data = {task.name: data_digest(task.parts)[:16] for task in tasks if folder.evaluations.is_dir()}
    for name in (BASE, WARMUP, *trained_names(config)):
        final = folder.adapter("final", config.model.adapter) if name == WARMUP else folder.finetune(name) / "final"
        path = final / ADAPTER
        if not folder.evaluation(name).is_dir() or (name != BASE and not path.is_file()):
            continue
        adapter = None if name == BASE else file_digest(path)[:16]
        stored = {task.name: read_answers(folder.evaluation(name), task.name) for task in tasks}
        answers = {
            task: done.answers
            for task, done in stored.items()
            if done is not None
            and done.fingerprint.get("adapter") == adapter
            and done.fingerprint.get("data") == data[task]
        }
        if len(answers) == len(tasks):
            results[name] = answers
    return results
