"""LESS (arXiv 2402.04333): the rows that help one task most, `selection.task`."""

from __future__ import annotations

from icons.selection.registry import CannotAnswerError, Evidence, Float64, method


@method("less", keys=("task",))
def less(evidence: Evidence) -> Float64:
    task = evidence.options["task"]
    if task is None and len(evidence.columns) > 1:
        raise CannotAnswerError(f"less selects for one task; name it in selection.task: {', '.join(evidence.columns)}")
    if task is not None and task not in evidence.columns:
        raise CannotAnswerError(f"selection.task: {task!r} is not scored; there are {', '.join(evidence.columns)}")
    return evidence.scores[:, evidence.columns.index(task) if task else 0].astype(float)
