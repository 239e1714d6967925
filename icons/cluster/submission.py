"""The submission of a whole run: only what is missing and not in the queue already, with what waits for it."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icons.cluster import slurm
from icons.cluster.slurm import QueuedJob
from icons.config import Config
from icons.errors import UserError
from icons.progress import say
from icons.ranges import as_ranges
from icons.stages.checks.status import Piece, collect_status

SCRIPTS = {
    "warmup": "warmup.sh",
    "val-grads": "2_slurm_get_val_data_grads.sh",
    "train-grads": "0_slurm_train_grads.sh",
    "merge": "1_merge_train_gradient.sh",
    "specialist": "3_specialist.sh",
    "generalist": "4_generalist.sh",
}
"""In the order of submission."""
ARRAYS = ("val-grads", "train-grads")


@dataclass(frozen=True)
class Name:
    """A job's name, by which a later submission knows what it is: `train-grads:500+1001@3f2a9c1d`.

    After the stage its checkpoint, what is added to its array indices, and a digest of the output folder.
    """

    stage: str
    checkpoint: str
    offset: int
    run: str

    def __str__(self) -> str:
        checkpoint = f":{self.checkpoint}" if self.checkpoint else ""
        return f"{self.stage}{checkpoint}{f'+{self.offset}' if self.offset else ''}@{self.run}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        match = re.fullmatch(r"([a-z-]+)(?::(\w+))?(?:\+(\d+))?@([0-9a-f]{8})", text)
        return match and cls(match[1], match[2] or "", int(match[3] or 0), match[4])


@dataclass(frozen=True)
class Order:
    """One call of sbatch; `indices` of an array, None for a single job."""

    name: Name
    indices: tuple[int, ...] | None = None


@dataclass
class Plan:
    """What is in the queue already, what each stage's followers wait for, and what was left out and why."""

    config: Config
    pieces: list[Piece]
    jobs: list[QueuedJob]
    waits: dict[str, list[str]] = field(default_factory=dict)
    renewed: set[str] = field(default_factory=set)  # stages of which something is submitted now
    notes: list[str] = field(default_factory=list)

    @property
    def run(self) -> str:
        return hashlib.sha256(str(self.config.output_dir.resolve()).encode()).hexdigest()[:8]

    def own_jobs(self) -> list[tuple[Name, QueuedJob]]:
        named = [(Name.parse(job.name), job) for job in self.jobs]
        return [(name, job) for name, job in named if name and name.run == self.run]

    def queued(self, stage: str) -> list[tuple[Name, QueuedJob]]:
        return [(name, job) for name, job in self.own_jobs() if name.stage == stage and not self._outdated(name, job)]

    def _outdated(self, name: Name, job: QueuedJob) -> bool:
        """Whether a job waits for what has failed, or for less than is submitted now."""
        renewed = bool(self.renewed.intersection(self.before(name.stage)))
        return job.hopeless or (renewed and job.pending and (job.waits or name.stage not in ARRAYS))

    def outdated(self) -> list[str]:
        """Ids of the jobs that others are submitted in place of."""
        return list(dict.fromkeys(job.array for name, job in self.own_jobs() if self._outdated(name, job)))

    def before(self, stage: str) -> list[str]:
        """The stages whose results a stage reads."""
        if stage == "train-grads":
            return ["warmup", "val-grads"] if self.config.gradients.exact else ["warmup"]
        return {
            "warmup": [],
            "val-grads": ["warmup"],
            "merge": ["train-grads"],
            "specialist": ["val-grads", "merge"],
            "generalist": ["specialist"],
        }[stage]

    def dependencies(self, stage: str) -> list[str]:
        return [term for earlier in self.before(stage) for term in self.waits.get(earlier, [])]

    def array_orders(self, stage: str, max_array_size: int) -> list[Order]:
        """The arrays for what is missing of a stage, one a checkpoint and for each range of MaxArraySize numbers.

        What is in the queue, or computed by another of one's jobs, is waited for instead.
        """
        in_queue = {(name.checkpoint, name.offset + (job.index or 0)) for name, job in self.queued(stage)}
        # Of an array in the queue some tasks may have failed before: its success cannot be waited for.
        waits = [f"afterany:{array}" for array in dict.fromkeys(job.array for _, job in self.queued(stage))]
        alive = {job.job for job in self.jobs if not job.pending}
        arrays: dict[tuple[str, int], list[int]] = {}
        for piece in self.pieces:
            if piece.stage != stage or piece.state == "done" or piece.number is None:
                continue
            if (piece.checkpoint, piece.number) in in_queue:
                continue
            if piece.state == "running" and (piece.job in alive or not piece.job):
                self.notes.append(f"{stage} {piece.checkpoint} {piece.name} is running already on {piece.host}")
                waits += [f"afterany:{piece.job}"] if piece.job else []
                continue
            offset = piece.number // max_array_size * max_array_size
            arrays.setdefault((piece.checkpoint, offset), []).append(piece.number - offset)
        self.waits[stage] = list(dict.fromkeys(waits))
        return [
            Order(Name(stage, checkpoint, offset, self.run), tuple(indices))
            for (checkpoint, offset), indices in arrays.items()
        ]

    def single_order(self, stage: str) -> Order | None:
        """The job of a stage, unless it is in the queue, or is done and nothing before it is under way."""
        done = all(piece.state == "done" for piece in self.pieces if piece.stage == stage)
        if done and not self.dependencies(stage):
            return None
        queued = self.queued(stage)
        self.waits[stage] = [f"afterok:{job.job}" for _, job in queued]
        return None if queued else Order(Name(stage, "", 0, self.run))


def submit_run(
    config: Config,
    path: Path,
    overrides: Sequence[str],
    scripts: Path,
    options: Sequence[str],
    *,
    dry_run: bool = False,
) -> None:
    """Submits what is missing; `options` go to each sbatch. With `dry_run` the commands are only shown.

    Raises UserError with Slurm's words when it refuses; what was submitted before stays, and a later call adds the
    rest.
    """
    if missing := [name for name in SCRIPTS.values() if not (scripts / name).is_file()]:
        raise UserError(f"{scripts / missing[0]} does not exist; --scripts names the folder of the scripts")
    plan = Plan(config, collect_status(config), slurm.queue())
    logs = config.output_dir / "logs"
    if not dry_run:
        logs.mkdir(parents=True, exist_ok=True)
    size = slurm.max_array_size()
    handed_on = ["--config", str(path.absolute()), *(part for text in overrides for part in ("--set", text))]
    for stage, script in SCRIPTS.items():
        single = None if stage in ARRAYS else plan.single_order(stage)
        orders = plan.array_orders(stage, size) if stage in ARRAYS else [single] if single else []
        after = ",".join(plan.dependencies(stage))
        if orders:
            plan.renewed.add(stage)
        elif plan.waits.get(stage):
            say(f"{stage:<24} in the queue already")
        for order in orders:
            command = _command(order, after, logs, options, scripts / script, handed_on)
            job = f"<{order.name}>" if dry_run else slurm.submit(command)
            plan.waits.setdefault(stage, []).append(f"afterok:{job}")
            say(shlex.join(command) if dry_run else _line(order, job, after))
    for note in plan.notes:
        say(f"note: {note}")
    if not dry_run:
        slurm.cancel(plan.outdated())
    if not plan.renewed:
        busy = any(plan.waits.values()) or plan.notes
        say("nothing to submit: " + ("the rest is in the queue" if busy else "everything is done"))


def _command(
    order: Order, after: str, logs: Path, options: Sequence[str], script: Path, handed_on: Sequence[str]
) -> list[str]:
    """The sbatch command; what decides about the run comes after the user's options, and so counts."""
    name = order.name
    log = f"{logs}/{str(name).partition('@')[0].replace(':', '-')}".replace("%", "%%")
    command = ["sbatch", "--parsable", *options, f"--job-name={name}"]
    command.append(f"--output={log}-{'%A_%a' if order.indices is not None else '%j'}.log")
    if after:
        command += [f"--dependency={after}", "--kill-on-invalid-dep=yes"]
    if order.indices is not None:
        command.append(f"--array={as_ranges(order.indices)}")
    offset = ["--offset", str(name.offset)] if name.offset else []
    return [*command, str(script), *([name.checkpoint] if name.checkpoint else []), *handed_on, *offset]


def _line(order: Order, job: str, after: str) -> str:
    name = f"{order.name.stage} {order.name.checkpoint}".rstrip()
    numbers = ""
    if order.indices is not None:
        kind = "chunks" if order.name.stage == "train-grads" else "tasks"
        numbers = f", {kind} {as_ranges(order.name.offset + index for index in order.indices)}"
    return f"{name:<24} job {job}{numbers}{f' ({after})' if after else ''}"
