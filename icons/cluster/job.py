"""What a script does in its job: which piece of a stage it is, what it leaves when it fails, and its own requeue.

Slurm itself requeues a job that it preempts. Ahead of the time limit it only sends the signal that the scripts ask
for (USR2); the job then requeues itself, if it has finished something.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from icons.cluster.slurm import requeue
from icons.config import Config
from icons.errors import UserError
from icons.progress import say
from icons.stop import Stopped
from icons.store.checkpoints import checkpoints
from icons.store.heartbeat import note_failure
from icons.store.layout import RunFolder
from icons.store.rows import read_manifest

STAGES = ("warmup", "train-grads", "merge", "val-grads", "specialist", "generalist")


@dataclass(frozen=True)
class Job:
    """A stage, or one chunk or task of it (None: all of them)."""

    config: Config
    stage: str
    chunk: int | None = None
    task: str | None = None

    @property
    def folders(self) -> list[Path]:
        """Folders of shards that this job and no other writes."""
        folder, config = RunFolder(self.config.output_dir), self.config
        if self.stage == "specialist":
            return [folder.influence / "parts"]
        paths = []
        for checkpoint in config.gradients.checkpoints:
            if self.stage == "train-grads" and self.chunk is not None:
                paths.append(folder.chunk(checkpoint, self.chunk, config.train.num_chunks))
            if self.stage == "val-grads":
                names = [task.name for task in config.tasks] if self.task is None else [self.task]
                paths += [folder.task(checkpoint, name) for name in names]
        return paths

    def finished_pieces(self) -> int:
        """Shards, or checkpoints of the warm-up, that are on disk."""
        if self.stage == "warmup":
            return len(checkpoints(RunFolder(self.config.output_dir).warmup))
        count = 0
        for folder in self.folders:
            with suppress(UserError):  # damaged: the stage will say so
                manifest = read_manifest(folder)
                count += len(manifest.shards) if manifest else 0
        return count

    @contextmanager
    def watched(self) -> Iterator[None]:
        """An error inside is left for `icons status`; asked to stop ahead of the time limit, the job requeues itself.

        Raises UserError instead of requeueing when nothing was finished, since that would go on for ever.
        """
        before = self.finished_pieces()
        try:
            yield
        except Stopped as stop:
            job_id = os.environ.get("SLURM_JOB_ID")
            if stop.signal == "SIGUSR2" and job_id is not None:
                self._require_progress(before)
                say(f"{self.stage}: the time limit is near, job {job_id} is requeued")
                requeue(job_id)
            raise
        except Exception as error:
            self._note(error)
            raise

    def _require_progress(self, before: int) -> None:
        if self.finished_pieces() == before:
            what = "checkpoint: raise --time or lower warmup.save_steps"
            if self.stage != "warmup":
                what = "shard: raise --time or lower gradients.shard_rows"
            error = UserError(f"not requeued: the time limit is too short for one {what}")
            self._note(error)
            raise error

    def _note(self, error: Exception) -> None:
        for folder in self.folders if (self.chunk, self.task) != (None, None) else ():
            note_failure(folder, error)


def find_job(config: Config, stage: str, chunk: int | None, task: str | None, offset: int) -> Job | None:
    """The job that the options, or else the index in a Slurm array, ask for; None when the index is beyond the last.

    The index stands for a chunk or for a task by its place in the config; `offset` is added to it, for arrays beyond
    the cluster's MaxArraySize.
    """
    index = os.environ.get("SLURM_ARRAY_TASK_ID")
    if stage not in STAGES:
        raise UserError(f"job {stage}: expected one of {', '.join(STAGES)}")
    if index is None or chunk is not None or task is not None or stage not in ("train-grads", "val-grads"):
        return Job(config, stage, chunk, task)
    number = int(index) + offset
    names = [task.name for task in config.tasks]
    count, key = (config.train.num_chunks, "train.num_chunks") if stage == "train-grads" else (len(names), "tasks")
    if number >= count:
        say(f"{stage}: array index {number}, and {key} holds {count}: nothing to do")
        return None
    return Job(config, stage, number) if stage == "train-grads" else Job(config, stage, task=names[number])


def checkpoint_overrides(checkpoint: str | None) -> list[str]:
    """What a script's checkpoint argument (500, final) sets; weights of other checkpoints do not fit it."""
    if checkpoint is None:
        return []
    return [f"gradients.checkpoints=[{checkpoint}]", "gradients.checkpoint_weights=null"]


def stage_function(job: Job) -> Callable[[Config], None]:
    """The stage as `icons run` calls it, narrowed to the job's chunk or task."""
    from icons.stages.generalist.generalist import generalist
    from icons.stages.specialist.merge import merge
    from icons.stages.specialist.specialist import specialist
    from icons.stages.specialist.train_grads import train_grads
    from icons.stages.specialist.val_grads import val_grads
    from icons.stages.training.warmup import warmup

    if job.stage == "train-grads":
        return lambda config: train_grads(config, job.chunk)
    if job.stage == "val-grads":
        return lambda config: val_grads(config, job.task)
    return {"warmup": warmup, "merge": merge, "specialist": specialist, "generalist": generalist}[job.stage]
