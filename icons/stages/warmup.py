"""`icons warmup`: LoRA on a small random part of the data, so that gradients mean something.

ICONS (arXiv 2501.00654), stage 1: a warm-up on 5% of the data; the adapter it leaves is where gradients are taken.
"""

from __future__ import annotations

import math
import shutil

from icons.config import Config
from icons.errors import BadRecordError, UserError
from icons.progress import say
from icons.stages.inputs import require_dim
from icons.stages.train_grads import open_training_data
from icons.store.files import read_json, write_json
from icons.store.fingerprint import Fingerprint, file_digest, model_digest, require_same
from icons.store.layout import RunFolder


def warmup(config: Config) -> None:
    """Leaves warmup/checkpoint-<step>/ and warmup/final/; continues from the newest checkpoint."""
    if config.model.adapter is not None:
        say(f"warmup: nothing to do, model.adapter gives {config.model.adapter}")
        return
    folder = RunFolder(config.output_dir).warmup
    marker = folder / "manifest.json"
    fingerprint = _fingerprint(config)
    if marker.is_file():
        advice = f"delete {folder} or use another output_dir"
        found = read_json(marker)
        if not isinstance(found, dict) or not {"fingerprint", "complete", "steps"} <= found.keys():
            raise UserError(f"{marker} is damaged; {advice}")
        require_same(found["fingerprint"], fingerprint, f"{folder} was begun with other inputs", advice)
        if found["complete"] and (folder / "final").is_dir():
            say(f"warmup: {found['steps']} steps, already done")
            return
    _train(config, fingerprint)


def _fingerprint(config: Config) -> Fingerprint:
    from icons.models.loading import model_folder

    settings = config.warmup.model_dump() | {f"lora_{k}": v for k, v in config.model.lora.model_dump().items()}
    model = {key: getattr(config.model, key) for key in ("dtype", "template", "image_aspect_ratio", "max_length")}
    return {
        "base_model": model_digest(model_folder(config.model.base)),
        "data": file_digest(config.train.data)[:16],
        **model,
        **settings,
    }


def _require_checkpoints(config: Config, steps: int) -> None:
    """Raises UserError before the training when a checkpoint that gradients are wanted at will not be written."""
    for checkpoint in config.gradients.checkpoints:
        written = checkpoint == "final" or checkpoint == steps
        if not written and not (int(checkpoint) < steps and int(checkpoint) % config.warmup.save_steps == 0):
            raise UserError(
                f"gradients.checkpoints: the warm-up will leave no checkpoint {checkpoint}; it has {steps} steps and "
                f"saves every {config.warmup.save_steps} (warmup.save_steps) and at the end"
            )


def _train(config: Config, fingerprint: Fingerprint) -> None:
    import torch

    from icons.data.batches import with_readable_images
    from icons.data.samples import DataSource
    from icons.models.adapters import attach_fresh_lora, lora_parameters
    from icons.models.loading import load_base, model_folder
    from icons.training.samples import TrainingSamples, random_part
    from icons.training.trainer import Recipe, checkpoints, fine_tune

    settings, records, skip = config.warmup, open_training_data(config), config.on_bad_record == "skip"
    require_dim(config, lora_parameters(model_folder(config.model.base), config.model.lora))
    model = load_base(config.model)
    source = DataSource(records, config.train.images, model.inputs)
    samples, bad = source.samples(random_part(len(records), settings.fraction, settings.seed))
    usable, unreadable = with_readable_images(samples)
    samples, bad = usable, sorted([*bad, *unreadable], key=lambda record: record.row)
    if bad and not skip:
        raise BadRecordError(f"{bad[0].reason}; mend it, or set on_bad_record: skip; `icons validate` lists them all")
    if not samples:
        raise UserError("warmup: no usable record in the random part; raise warmup.fraction or mend the data")
    steps = math.ceil(len(samples) / settings.batch_size) * settings.epochs
    steps = min(steps, settings.max_steps or steps)
    _require_checkpoints(config, steps)
    folder = RunFolder(config.output_dir).warmup
    write_json(folder / "manifest.json", {"complete": False, "steps": steps, "fingerprint": fingerprint})

    torch.manual_seed(settings.seed)
    peft = attach_fresh_lora(model, config.model.lora).peft
    recipe = Recipe(
        steps=steps,
        learning_rate=settings.learning_rate,
        warmup_ratio=settings.warmup_ratio,
        batch_size=settings.batch_size,
        save_steps=settings.save_steps,
        seed=settings.seed,
        bf16=config.model.dtype == "bfloat16" and model.device.type == "cuda",
        on_cpu=model.device.type == "cpu",
    )
    loss = fine_tune(peft.train(), TrainingSamples(source, samples, model.token_type_arguments), folder, recipe)
    temporary = folder / ".final.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(checkpoints(folder)[-1], temporary)
    shutil.rmtree(folder / "final", ignore_errors=True)
    temporary.rename(folder / "final")
    write_json(folder / "manifest.json", {"complete": True, "steps": steps, "fingerprint": fingerprint})
    skipped = f", {len(bad)} bad records left out" if bad else ""
    say(f"warmup: {steps} steps on {len(samples)} records{skipped}, loss {loss:.3f}, written to {folder / 'final'}")
