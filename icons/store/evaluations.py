"""Answers of a model to a task on disk: evaluation/<model>/<task>.safetensors and a sealed .json that completes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icons.errors import UserError
from icons.evaluation.measures import Answers
from icons.store.files import Array, read_sealed, read_tensors, write_sealed, write_tensors
from icons.store.fingerprint import Fingerprint, as_written, digest


@dataclass(frozen=True)
class TaskAnswers:
    """What lies in a task's files: its answers, what they were made of, how many of the records are bad."""

    task: str
    answers: Answers
    fingerprint: Fingerprint
    bad: int
    seconds: float


def write_answers(folder: Path, done: TaskAnswers) -> None:
    """The tensors first, then the sealed file that names them."""
    tensors: dict[str, Array] = {
        "losses": done.answers.losses,
        "right": done.answers.right,
        "tokens": done.answers.tokens,
    }
    if done.answers.generated is not None:
        tensors["generated"] = done.answers.generated
    marker, file = folder / f"{done.task}.json", f"{done.task}.safetensors"
    marker.unlink(missing_ok=True)
    written = write_tensors(folder / file, tensors)
    content: dict[str, Any] = {
        "task": done.task,
        "fingerprint": digest(done.fingerprint),
        "made_of": done.fingerprint,
        "rows": len(done.answers),
        "bad": done.bad,
        "seconds": round(done.seconds, 3),
        "files": {file: hashlib.sha256(written).hexdigest()},
    }
    write_sealed(marker, content)


def read_answers(folder: Path, task: str) -> TaskAnswers | None:
    """None where a file is missing or not as it was written."""
    marker = folder / f"{task}.json"
    try:
        content = read_sealed(marker, "")
        if as_written(marker, content["fingerprint"]) is None:
            return None
        tensors = read_tensors(folder / f"{task}.safetensors")
        generated = tensors["generated"].astype(np.bool_) if "generated" in tensors else None
        answers = Answers(tensors["losses"], tensors["right"], tensors["tokens"], generated)
        return TaskAnswers(task, answers, content["made_of"], content["bad"], content["seconds"])
    except (UserError, KeyError, TypeError):
        return None
