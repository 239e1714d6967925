"""One model's answers to the records of one task."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch

from icons.config import Config, TaskConfig
from icons.data.batches import Batch, load_batches, make_batch
from icons.data.samples import BadRecord, DataSource, Sample
from icons.data.sets import open_records
from icons.data.tokens import IGNORE
from icons.errors import BadRecordError, UserError
from icons.evaluation.measures import Answers
from icons.evaluation.teacher_forced import teacher_forced
from icons.models.generation import greedy_answers
from icons.models.vlm import VisionLanguageModel
from icons.progress import Progress
from icons.stop import leave_if_asked

GENERATE_AT_ONCE = 32
"""Prompts generated for at a time, at most."""


def answer_task(
    config: Config, model: VisionLanguageModel, task: TaskConfig, title: str, *, generate: bool
) -> tuple[Answers, int]:
    """The answers, and how many records are bad; with `generate` the generated ones too.

    Raises BadRecordError for a bad record unless `on_bad_record: skip`, UserError when no record is usable.
    """
    source = DataSource(open_records(task.parts), model.inputs)
    samples, bad = source.samples(range(len(source.records)))
    _refuse(config, bad)
    losses, right, tokens = (dict[int, float](), dict[int, int](), dict[int, int]())
    with Progress(title, len(samples)) as progress, torch.no_grad():
        for batch, unreadable in _batches(config, model, samples):
            _refuse(config, unreadable)
            bad += unreadable
            if batch is not None:
                parts = teacher_forced(model.hidden_states(batch), model.head, batch.labels)
                for row, loss, hits, count in zip(batch.rows, *(each.tolist() for each in parts), strict=True):
                    losses[row], right[row], tokens[row] = loss, hits, count
                progress.advance(len(batch.rows))
            leave_if_asked()
    if not losses:
        raise UserError(f"task {task.name}: no usable record in {task.title}" + (f"; {bad[0].reason}" if bad else ""))
    rows = sorted(losses)
    if not np.isfinite(list(losses.values())).all():
        row = next(row for row in rows if not np.isfinite(losses[row]))
        raise UserError(f"{source.records.where(row)}: the loss is not a finite number; check the weights for NaN")
    generated = None
    if generate:
        texts = _generated(model, [sample for sample in samples if sample.row in losses], f"{title}, generated")
        generated = np.array([texts[row] for row in rows])
    losses_N, right_N, tokens_N = (np.array([values[row] for row in rows]) for values in (losses, right, tokens))
    return Answers(losses_N, right_N, tokens_N, generated), len(bad)


def _batches(
    config: Config, model: VisionLanguageModel, samples: list[Sample]
) -> Iterator[tuple[Batch | None, list[BadRecord]]]:
    on_gpu = model.device.type == "cuda"
    budget = config.gradients.tokens_per_batch or (16384 if on_gpu else 2048)
    workers = config.gradients.num_workers if config.gradients.num_workers is not None else 4 * on_gpu
    return load_batches(samples, model.inputs, budget, workers, pin=on_gpu)


def _refuse(config: Config, bad: list[BadRecord]) -> None:
    if bad and config.on_bad_record == "error":
        raise BadRecordError(f"{bad[0].reason}; mend it, or set on_bad_record: skip")


def _generated(model: VisionLanguageModel, samples: list[Sample], title: str) -> dict[int, bool]:
    """Whether the text generated for a record's first answer is that answer, white space at its ends aside."""
    right: dict[int, bool] = {}
    starts = {sample.row: _first_answer(sample) for sample in samples}
    ordered = sorted(samples, key=lambda sample: (starts[sample.row][0], len(sample.images), sample.row))
    with Progress(title, len(samples)) as progress:
        for (length, _), group in groupby(ordered, key=lambda sample: (starts[sample.row][0], len(sample.images))):
            same = list(group)
            for first in range(0, len(same), GENERATE_AT_ONCE):
                part = same[first : first + GENERATE_AT_ONCE]
                batch, _ = make_batch(part, model.inputs)
                assert batch is not None  # its images were read a moment ago
                answers = [starts[sample.row][1] for sample in part]
                texts = greedy_answers(model, batch, length, 1 + max(map(len, answers)))
                for sample, text, ids in zip(part, texts, answers, strict=True):
                    answer = model.inputs.tokenizer.decode(ids, skip_special_tokens=True)
                    right[sample.row] = text.strip() == answer.strip()
                progress.advance(len(part))
                leave_if_asked()
    return right


def _first_answer(sample: Sample) -> tuple[int, list[int]]:
    """How many ids stand before the first answer, and its ids."""
    labels = sample.tokens.labels
    start = next(at for at, label in enumerate(labels) if label != IGNORE)
    stop = next((at for at in range(start, len(labels)) if labels[at] == IGNORE), len(labels))
    return start, labels[start:stop]
