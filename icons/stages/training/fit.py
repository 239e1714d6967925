"""What the warm-up and the final run share: a fresh LoRA, and with it the projector, trained on some rows.

Leaves in its folder checkpoint-<step>/, final/, log.jsonl, loss.png and a manifest of what it was made of. Every
process of an `accelerate launch` runs this; the main one writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icons.atomic import new_folder
from icons.config import Config, TrainingConfig
from icons.data.records import Records
from icons.data.sets import data_digest, open_records
from icons.errors import BadRecordError, UserError
from icons.machine import this_machine
from icons.progress import say
from icons.stages.specialist.described import input_settings
from icons.store.checkpoints import checkpoints, our_checkpoints
from icons.store.files import read_sealed, write_sealed
from icons.store.fingerprint import Fingerprint, model_digest, require_same
from icons.store.lock import only_one_process
from icons.store.whole import MARKER, damaged, mark_whole
from icons.training.processes import Processes

if TYPE_CHECKING:
    from icons.data.samples import DataSource
    from icons.models.vlm import VisionLanguageModel
    from icons.training.infobatch import InfoBatch
    from icons.training.packed import PackedSamples


@dataclass(frozen=True)
class Job:
    """One training: `rows` picks them of the opened training file, `made_of` is what decides them.

    `check` gets, before anything is written, the number of steps and whether it is known exactly or is the least that
    pruning may leave; `try_model` the model with its LoRA before the first step. `keep`: how many checkpoints stay
    (None: all); `optimizer_in_final`: whether final/ holds the newest of them whole, or its adapter alone.
    """

    title: str
    command: str
    folder: Path
    settings: TrainingConfig
    rows: Callable[[Records], Sequence[int]]
    made_of: Fingerprint
    check: Callable[[int, bool], None] = lambda steps, exact: None
    try_model: Callable[[VisionLanguageModel], None] = lambda model: None
    keep: int | None = None
    optimizer_in_final: bool = True


@dataclass(frozen=True)
class _Ready:
    """What every process holds when the checks are through."""

    source: DataSource
    samples: PackedSamples
    steps: int
    pruning: InfoBatch | None
    epochs: int
    full_passes: int
    manifest: dict[str, Any]


def train(config: Config, job: Job) -> bool:
    """Trains, or continues, and says so; True in the process that may go on writing in the folder.

    Raises UserError when the folder was begun with other inputs, naming the field, and for bad records.
    """
    processes = Processes.from_environment()
    config = config.model_copy(update={"model": processes.place(config.model)})
    processes.meet(_on_cpu(config.model.device))
    begun = processes.together(lambda: _manifest(config, job))
    if begun and begun["complete"] and not damaged(job.folder / "final"):
        if processes.main:
            say(f"{job.title}: {begun['steps']} steps, already done")
    else:
        processes.together(lambda: require_trainable(config))
        ready = _prepare(config, job, processes, begun)
        with only_one_process(job.folder) if processes.main else nullcontext():
            _fit(config, job, ready, processes)
    processes.part()
    return processes.main


def require_trainable(config: Config) -> None:
    """Raises UserError for a model that is not trained here: one that lies on several GPUs."""
    from icons.models.quantization import require_bitsandbytes

    if config.model.device_map is not None:
        raise UserError(
            "model.device_map: auto is for gradients and answers, not for training; train with --set "
            "model.device_map=null (model.quantization: 4bit lets a large model fit one GPU), or give model.adapter"
        )
    require_bitsandbytes(config.model)


def _manifest(config: Config, job: Job) -> dict[str, Any] | None:
    """The folder's manifest; a UserError when it is damaged or of other inputs."""
    marker = job.folder / "manifest.json"
    advice = f"delete {job.folder} or use another {'output_dir' if job.command == 'warmup' else '--name'}"
    if not marker.is_file():
        if our_checkpoints(job.folder):
            raise UserError(
                f"{job.folder} has checkpoints and no manifest.json, so what they are of is unknown; {advice}"
            )
        return None
    manifest = read_sealed(marker, advice)
    if not {"complete", "steps", "processes", "bad_records", "fingerprint"} <= manifest.keys():
        raise UserError(f"{marker} is damaged (it lacks what a training's manifest holds); {advice}")
    asked = _fingerprint(config, job, data_digest(config.train.parts))
    require_same(manifest["fingerprint"], asked, f"{job.folder} was begun with other inputs", advice)
    return manifest


def _fingerprint(config: Config, job: Job, sha256: str) -> Fingerprint:
    """`sha256` is that of the training file: the one that is read, not what its name stands for later."""
    from icons.models.folders import model_folder

    pruning = config.training.model_dump() if config.training.pruning else {}
    settings = job.settings.model_dump() | {f"lora_{k}": v for k, v in config.model.lora.model_dump().items()}
    return {
        "base_model": model_digest(model_folder(config.model.base)),
        "data": sha256[:16],
        **input_settings(config.model),
        **settings,
        **{key if key == "pruning" else f"pruning_{key}": value for key, value in pruning.items()},
        **job.made_of,
    }


def _prepare(config: Config, job: Job, processes: Processes, begun: dict[str, Any] | None) -> _Ready:
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

    def settle() -> _Ready:
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
            "fingerprint": _fingerprint(config, job, source.records.sha256),
        }
        return _Ready(source, samples, steps, pruning, epochs, full_passes, manifest)

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


def _fit(config: Config, job: Job, ready: _Ready, processes: Processes) -> None:
    import torch

    from icons.models.adapters import attach_fresh_lora
    from icons.models.loading import load_base
    from icons.models.place import computing
    from icons.training.infobatch import SamplePasses
    from icons.training.recipe import Recipe
    from icons.training.samples import TrainingSamples
    from icons.training.trainer import fine_tune

    if processes.main:
        write_sealed(job.folder / "manifest.json", ready.manifest)
        _advise(config, job, ready, processes)
    model = processes.together(lambda: load_base(config.model))
    projector = _projector(model, job, processes)
    settings = job.settings
    torch.manual_seed(settings.seed)
    adapted = attach_fresh_lora(model, config.model.lora, projector=projector)
    processes.together(lambda: job.try_model(adapted))
    if processes.main:
        samples_a_step = settings.batch_size * settings.gradient_accumulation * processes.count
        say(f"{job.title}: {computing(adapted, f'{samples_a_step} samples a step', f'{processes.count} process(es)')}")
    recipe = Recipe(
        steps=ready.steps,
        learning_rate=settings.learning_rate,
        projector_learning_rate=settings.projector_learning_rate,
        warmup_ratio=settings.warmup_ratio,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        save_steps=settings.save_steps,
        seed=settings.seed,
        bf16=config.model.dtype == "bfloat16",
        on_cpu=model.device.type == "cpu",
        keep=job.keep,
        pruning=ready.pruning,
    )
    samples = TrainingSamples(ready.source, ready.samples, model.token_type_arguments)
    trained = fine_tune(adapted.peft.train(), samples, job.folder, recipe, job.title, processes)
    processes.together(ready.source.records.require_unchanged)
    if not processes.main:
        return
    newest = checkpoints(job.folder)[-1]
    names = None if job.optimizer_in_final else ("adapter_config.json", "adapter_model.safetensors", "README.md")
    with new_folder(job.folder / "final", replace=True) as final:
        _copy(newest, final, names)
        mark_whole(final)
    facts: dict[str, Any] = {"complete": True, "steps": trained.steps, "machine": this_machine(model.device)}
    saved = ""
    if config.training.pruning:
        passes = trained.passes or SamplePasses(ready.full_passes, ready.full_passes)
        facts["sample_passes"] = passes.as_json()
        saved = f", {passes.saved} of {passes.full} sample-passes saved ({100 * passes.saved / passes.full:.1f}%)"
    write_sealed(job.folder / "manifest.json", ready.manifest | facts)
    bad = len(ready.manifest["bad_records"])
    skipped = f", {bad} bad records left out" if bad else ""
    say(
        f"{job.title}: {trained.steps} steps on {len(ready.samples)} records{skipped}{saved}, "
        f"loss {trained.loss:.3f}, written to {job.folder / 'final'}"
    )


def _projector(model: VisionLanguageModel, job: Job, processes: Processes) -> str | None:
    """Module path of what is trained in full, None when that is nothing."""
    from icons.models.parts import projector_name

    if job.settings.projector_learning_rate is None:
        return None
    name = projector_name(model.base)
    if name is None and getattr(model.base.config, "vision_config", None) is not None and processes.main:
        say(f"{job.title}: this model's projector is not known, so only the LoRA is trained")
    return name


def _advise(config: Config, job: Job, ready: _Ready, processes: Processes) -> None:
    import torch

    if config.training.pruning and not ready.pruning:
        say(
            f"{job.title}: training.pruning has nothing to leave out of {ready.epochs} epoch(s): the first is "
            f"whole, and so are those from training.delta ({config.training.delta:g}) of them on, at least the last"
        )
    gpus = 0 if _on_cpu(config.model.device) else torch.cuda.device_count()
    if gpus > 1 and processes.count == 1:
        say(f"{job.title}: on one of {gpus} GPUs; `accelerate launch -m icons {job.command} CONFIG` trains on all")


def _copy(source: Path, target: Path, names: tuple[str, ...] | None) -> None:
    for path in source.iterdir():
        if path.name != MARKER and (names is None or path.name in names):
            shutil.copy2(path, target / path.name)


def _on_cpu(device: str) -> bool:
    import torch

    return device == "cpu" or not torch.cuda.is_available()
