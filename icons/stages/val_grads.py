"""`icons val-grads`: gradient rows of the target tasks' validation samples."""

from __future__ import annotations

from icons.config import Config
from icons.data.records import Records
from icons.progress import say
from icons.stages.inputs import feature_fingerprint, with_data
from icons.store.layout import RunFolder
from icons.store.rows import RowWriter


def val_grads(config: Config, task: str | None = None) -> None:
    """Computes the rows of one task, or of every task that is not complete, for each checkpoint."""
    from icons.stages.collect import Collector, DataRange

    tasks = config.tasks if task is None else [config.task(task)]
    opened = {chosen.name: Records(chosen.data) for chosen in tasks}
    for checkpoint in config.gradients.checkpoints:
        features = feature_fingerprint(config, checkpoint)
        collector = Collector(config, checkpoint)
        for chosen in tasks:
            records = opened[chosen.name]
            place = RunFolder(config.output_dir).task(checkpoint, chosen.name)
            writer = RowWriter(place, 0, len(records), with_data(features, chosen.data, len(records)))
            computed = not writer.manifest.complete
            if computed:
                title = f"val-grads {chosen.name}"
                collector.collect(DataRange(records, chosen.images, 0, len(records), place, title), writer)
            manifest = writer.manifest
            invalid = sum(shard.invalid for shard in manifest.shards)
            done = (
                f"computed, {len(records) / max(manifest.seconds, 1e-9):.1f} samples/s" if computed else "already done"
            )
            say(f"val-grads {chosen.name} {checkpoint}: {len(records)} rows, {invalid} invalid, {done}")
