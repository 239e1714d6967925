"""The checks before a training: its samples read, its images decoded once, its steps counted. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icons.config import Config
from icons.data.records import Records
from icons.data.sets import open_records
from icons.errors import BadRecordError, UserError
from icons.progress import say
from icons.stages.training.job import Job, training_fingerprint
from icons.store.fingerprint import require_same
from icons.training.processes import Processes

if TYPE_CHECKING:
    from icons.data.samples import DataSource
    from icons.training.infobatch import InfoBatch
    from icons.training.packed import PackedSamples


@dataclass(frozen=True)
class Ready:
    """What every process holds when the checks are through."""

    source: DataSource
    samples: PackedSamples
    steps: int
    pruning: InfoBatch | None
    epochs: int
    full_passes: int
    manifest: dict[str, Any]


def prepare(config: Config, job: Job, processes: Processes, begun: dict[str, Any] | None) -> Ready:
    """Samples and steps; every image is decoded once, on the first start alone. Nothing is written."""
    from icons.data.samples import BadRecord, DataSource
    from icons.models.folders import model_folder
    from icons.models.formats import input_format
    from icons.models.place import pick_device
    from icons.training.packed import PackedSamples, pack_samples
    from icons.training.readable import unreadable

    def title(what: str) -> str:
        return f"{job.title}: {what}" if processes.main else ""

    def read() -> tuple[DataSource, PackedSamples, list[BadRecord]]:
        if begun is not None:
            before, count = {"processes": begun["processes"]}, {"processes": processes.count}
            advice = "go on with as many, or delete the folder"
            require_same(before, count, f"{job.folder} was begun with other inputs", advice)
        pick_device(config.model.device)
        records = open_records(config.train.parts)
        _require_the_same_file(config, job, records, begun)
        rows = job.rows(records)
        source = DataSource(records, input_format(model_folder(config.model.base), config.model))
        left_out = [BadRecord(**record) for record in begun["bad_records"]] if begun else []
        samples, bad = pack_samples(source, rows, {record.row for record in left_out}, title("records"))
        return source, samples, [*left_out, *bad]

    source, samples, bad = processes.together(read)
    for warning in source.inputs.warnings if processes.main else ():
        say(f"{job.title}: {warning}")
    digests = set(processes.gather(source.records.sha256))
    processes.together(lambda: _require_one_file(config, digests))
    if begun is None:
        share = samples.heads[processes.rank :: processes.count]
        gathered = processes.gather(unreadable(share, source.inputs, title("images"), processes.count))
        no_image = {record.row: record for part in gathered for record in part}
        samples = PackedSamples(iter([[sample for sample in samples if sample.row not in no_image]]))
        bad = sorted([*bad, *no_image.values()], key=lambda record: record.row)

    def settle() -> Ready:
        if bad and config.on_bad_record == "error":
            reason = bad[0].reason
            raise BadRecordError(f"{reason}; mend it, or set on_bad_record: skip; `icons validate` lists them all")
        if not samples:
            raise UserError(f"{job.title}: no usable record among those it should train on; mend the data")
        settings = job.settings
        step_size = settings.batch_size * settings.gradient_accumulation * processes.count
        epoch_steps = -(-len(samples) // step_size)
        steps = min(epoch_steps * settings.epochs, settings.max_steps or epoch_steps * settings.epochs)
        epochs = -(-steps // epoch_steps)
        full_passes = steps // epoch_steps * len(samples) + min(steps % epoch_steps * step_size, len(samples))
        pruning, pruned_epochs = _pruning(config, epochs)
        job.check(steps - pruned_epochs * (epoch_steps - 1), pruning is None)
        manifest = {
            "complete": False,
            "steps": steps,
            "processes": processes.count,
            "records": len(samples),
            "bad_records": [{"row": record.row, "reason": record.reason} for record in bad],
            "fingerprint": training_fingerprint(config, job, source.records.sha256),
        }
        return Ready(source, samples, steps, pruning, epochs, full_passes, manifest)

    return processes.together(settle)


def _require_one_file(config: Config, digests: set[str]) -> None:
    if len(digests) > 1:
        raise UserError(f"{config.train.title}: the processes opened two different files; run again")


def _require_the_same_file(config: Config, job: Job, records: Records, begun: dict[str, Any] | None) -> None:
    if begun is not None and begun["fingerprint"]["data"] != records.sha256[:16]:
        raise UserError(f"{config.train.title} was replaced by another file while {job.title} began; run again")


def _pruning(config: Config, epochs: int) -> tuple[InfoBatch | None, int]:
    """What leaves samples out, None where that is nothing, and of how many epochs."""
    from icons.training.infobatch import InfoBatch

    settings = config.training
    pruning = InfoBatch(settings.ratio, settings.delta)
    pruned = len(pruning.pruned_epochs(epochs)) if settings.pruning else 0
    return (pruning if pruned else None), pruned
