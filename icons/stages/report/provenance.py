"""How a run was made, as its folders tell: time and throughput of each stage, machines, bad records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icons.config import Config
from icons.report.making import Provenance, StageTime
from icons.store.files import read_sealed
from icons.store.index import read_index
from icons.store.layout import RunFolder
from icons.store.rows import Manifest, read_manifest
from icons.training.log import read_log


def read_provenance(config: Config) -> Provenance:
    """From manifests and the warm-up's log; stages whose folders are gone have no time.

    Raises UserError for a damaged manifest.
    """
    folder, used = RunFolder(config.output_dir), _Used()
    times, skipped = [], dict[str, list[str]]()
    log = read_log(folder.warmup / "log.jsonl") if config.model.adapter is None else []
    warmup = _training_manifest(folder.warmup) if config.model.adapter is None else None
    if warmup is not None:
        times.append(_warmup(config, warmup, log))
        used.note(warmup.get("machine"), "warm-up")
        skipped["warm-up"] = [str(bad["reason"]) for bad in warmup["bad_records"]]
    made_of: dict[str, Any] = {}
    for checkpoint in config.gradients.checkpoints:
        at = f" at {checkpoint}" if len(config.gradients.checkpoints) > 1 else ""
        tasks = {task.name: read_manifest(folder.task(checkpoint, task.name)) for task in config.tasks}
        chunks = _chunks(folder, checkpoint, config.train.num_chunks)
        manifests = [manifest for manifest in tasks.values() if manifest]
        times.append(_rows(f"val-grads{at}", manifests, f"{len(manifests)} task{'s' if len(manifests) != 1 else ''}"))
        times.append(_rows(f"train-grads{at}", chunks, f"{len(chunks)} chunk{'s' if len(chunks) != 1 else ''}"))
        if "training data" not in skipped:  # the same records at every checkpoint
            skipped["training data"] = _reasons(chunks)
            skipped |= {f"task {name}": _reasons([manifest]) for name, manifest in tasks.items() if manifest}
        for manifest in manifests:
            used.note_all(manifest.machines, "val-grads")
        for manifest in chunks:
            used.note_all(manifest.machines, "train-grads")
        index = read_index(folder.index(checkpoint)) if folder.index(checkpoint).is_file() else None
        if index is not None:
            made_of = made_of or dict(index.fingerprint)
            times.append(StageTime(f"merge{at}", f"{len(index.shards):,} shards", index.seconds))
    parts = read_manifest(folder.influence / "parts")
    times.append(_rows("specialist", [parts] if parts else [], f"{len(config.columns)} tasks"))
    times.append(StageTime("generalist", "the selection"))  # without a time, its files are the same bytes every time
    return Provenance(times, used.found, skipped, log, made_of)


class _Used:
    """Machines, each with what was computed on it."""

    def __init__(self) -> None:
        self.found: list[tuple[dict[str, str], list[str]]] = []

    def note(self, machine: object, what: str) -> None:
        if not isinstance(machine, dict):
            return
        for machine_noted, stages in self.found:
            if machine_noted == machine:
                if what not in stages:
                    stages.append(what)
                return
        self.found.append((machine, [what]))

    def note_all(self, machines: Iterable[object], what: str) -> None:
        for machine in machines:
            self.note(machine, what)


def _training_manifest(folder: Path) -> dict[str, Any] | None:
    if not (folder / "manifest.json").is_file():
        return None
    manifest = read_sealed(folder / "manifest.json", f"delete {folder} and run `icons warmup` again")
    return manifest if {"steps", "records", "bad_records", "processes"} <= manifest.keys() else None


def _warmup(config: Config, manifest: dict[str, Any], log: list[dict[str, Any]]) -> StageTime:
    """Seconds by the log: its lines' samples over their samples a second."""
    settings = config.warmup
    step_size = settings.batch_size * settings.gradient_accumulation * int(manifest["processes"])
    seconds, samples, before = 0.0, 0.0, 0.0
    for entry in log:
        rate = entry.get("samples_per_second")
        if isinstance(rate, int | float) and rate > 0:
            records = (entry["step"] - before) * step_size
            samples, seconds = samples + records, seconds + records / rate
        before = entry["step"]
    work = f"{manifest['steps']:,} steps on {manifest['records']:,} records"
    passes = manifest.get("sample_passes")
    if isinstance(passes, dict):
        work += f", {passes['saved'] / max(1, passes['full']):.1%} of sample-passes saved"
    if not seconds:
        return StageTime("warm-up", work)
    return StageTime("warm-up", work, seconds, samples / seconds, "samples")


def _chunks(folder: RunFolder, checkpoint: int | str, num_chunks: int) -> list[Manifest]:
    manifests = (read_manifest(folder.chunk(checkpoint, chunk, num_chunks)) for chunk in range(num_chunks))
    return [manifest for manifest in manifests if manifest is not None]


def _rows(stage: str, manifests: list[Manifest], what: str) -> StageTime:
    rows, seconds = sum(m.rows_done for m in manifests), sum(m.seconds for m in manifests)
    if not rows:
        return StageTime(stage, "no longer there")
    return StageTime(stage, f"{rows:,} rows, {what}", seconds or None, rows / seconds if seconds else None, "rows")


def _reasons(manifests: list[Manifest]) -> list[str]:
    return [str(bad["reason"]) for manifest in manifests for bad in manifest.bad_records]
