"""`icons val-grads`: gradient rows of the target tasks' validation samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icons.config import Config
from icons.data.sets import open_records
from icons.errors import UserError
from icons.progress import say
from icons.stages.specialist.chunks import refuse_skipped
from icons.stages.specialist.fingerprints import feature_fingerprint, val_fingerprint
from icons.store.layout import RunFolder
from icons.store.lock import only_one_process
from icons.store.rows import RowWriter

if TYPE_CHECKING:
    from icons.stages.specialist.extractor import Extractor


def val_grads(config: Config, task: str | None = None) -> None:
    """Computes the rows of one task, or of every task that is not complete, for each checkpoint."""
    tasks = config.tasks if task is None else [config.task(task)]
    opened = {section.name: open_records(section.parts) for section in tasks}
    for checkpoint in config.gradients.checkpoints:
        features = feature_fingerprint(config, checkpoint)
        extractor: Extractor | None = None  # made when a task needs it: a finished stage run again is instant
        for section in tasks:
            records = opened[section.name]
            folder = RunFolder(config.output_dir).task(checkpoint, section.name)
            writer = RowWriter(folder, 0, len(records), val_fingerprint(config, features, records))
            refuse_skipped(config, [writer])
            computed = not writer.manifest.complete
            if computed:
                from icons.stages.specialist.collect import DataRange, collect
                from icons.stages.specialist.extractor import Extractor

                extractor = extractor or Extractor(config, checkpoint, "val", features)
                data = DataRange(records, 0, len(records), f"val-grads {section.name}")
                with only_one_process(folder):
                    writer = RowWriter(folder, 0, len(records), writer.manifest.fingerprint)
                    collect(extractor, data, writer)
            manifest = writer.manifest
            invalid = sum(shard.invalid for shard in manifest.shards)
            if invalid == len(records):
                reason = manifest.bad_records[0]["reason"]
                raise UserError(f"task {section.name} has no valid validation row; the first: {reason}")
            rate = f"computed, {len(records) / max(manifest.seconds, 1e-9):.1f} samples/s"
            done = rate if computed else "already done"
            say(f"val-grads {section.name} {checkpoint}: {len(records)} rows, {invalid} invalid, {done}")
