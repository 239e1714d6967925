"""What the warm-up and the final run share: a fresh LoRA, and with it the projector, trained on some rows.

Leaves in its folder checkpoint-<step>/, final/, log.jsonl, loss.png and a manifest of what it was made of. Every
process of an `accelerate launch` runs this; the main one writes.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icons.atomic import new_folder
from icons.config import Config
from icons.errors import UserError
from icons.machine import this_machine
from icons.progress import say
from icons.stages.training.job import Job, begun_manifest
from icons.stages.training.ready import Ready, prepare
from icons.store.checkpoints import checkpoints
from icons.store.files import write_sealed
from icons.store.lock import only_one_process
from icons.store.whole import MARKER, damaged, mark_whole
from icons.training.processes import Processes

if TYPE_CHECKING:
    from icons.models.vlm import VisionLanguageModel


def train(config: Config, job: Job) -> bool:
    """Trains, or continues, and says so; True in the process that may go on writing in the folder.

    Raises UserError when the folder was begun with other inputs, naming the field, and for bad records.
    """
    processes = Processes.from_environment()
    config = config.model_copy(update={"model": processes.place(config.model)})
    processes.meet(_on_cpu(config.model.device))
    begun = processes.together(lambda: begun_manifest(config, job))
    if begun and begun["complete"] and not damaged(job.folder / "final"):
        if processes.main:
            say(f"{job.title}: {begun['steps']} steps, already done")
    else:
        processes.together(lambda: require_trainable(config))
        ready = prepare(config, job, processes, begun)
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


def _fit(config: Config, job: Job, ready: Ready, processes: Processes) -> None:
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


def _advise(config: Config, job: Job, ready: Ready, processes: Processes) -> None:
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
