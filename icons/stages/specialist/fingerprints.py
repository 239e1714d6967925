"""What a row was made of: the fingerprints that tie training, validation and influence together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from icons.config import Config
from icons.data.records import Records
from icons.errors import UserError
from icons.gradients.kinds import VERSIONS
from icons.models.folders import model_folder
from icons.stages.specialist.described import named, row_settings, val_type
from icons.stages.specialist.directions import tasks_digest
from icons.store.fingerprint import Fingerprint, digest, file_digest, model_digest
from icons.store.layout import RunFolder
from icons.store.whole import damaged

if TYPE_CHECKING:
    from icons.models.counted import CountedLora

LORA_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out")
"""What of an adapter's settings scales its layers, beside its tensors."""


def train_fingerprint(config: Config, checkpoint: int | str, records: Records) -> Fingerprint:
    """What the training rows of a checkpoint are made of; with exact influence the tasks' gradients too.

    `records` is the training file as it was opened.

    Raises UserError when the model, the adapter, or (exact) a task's gradients are missing, or when there are fewer
    LoRA parameters than `gradients.dim` or fewer layers than `gradients.layers` ask for.
    """
    fingerprint = feature_fingerprint(config, checkpoint) | {"gradient_type": config.gradients.type}
    if config.gradients.type == "adam":
        folder = RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter)
        if not (folder / "optimizer.pt").is_file():
            raise UserError(
                f"gradients.type adam needs the warm-up's optimizer, and {folder} has no optimizer.pt; "
                "use an adapter of `icons warmup`, or type sgd"
            )
        fingerprint["moments"] = file_digest(folder / "optimizer.pt")[:16]
    if config.gradients.exact:
        fingerprint["tasks"] = tasks_digest(config, checkpoint)
    return fingerprint | _data(records)


def val_fingerprint(config: Config, features: Fingerprint, records: Records) -> Fingerprint:
    """What a task's validation rows are made of; their gradients are plain also when `gradients.type` is adam.

    `features` is the checkpoint's `feature_fingerprint`, `records` the task's file as it was opened.
    """
    return features | {"gradient_type": val_type(config.gradients.type)} | _data(records)


def require_counted(config: Config, adapter: Path | None) -> CountedLora:
    """The LoRA parameters that gradients are made of: of an adapter's folder, or (None) of the warm-up to come.

    Raises UserError when `gradients.dim` exceeds their number, or `gradients.layers` the model.
    """
    from icons.models.counted import counted_lora

    lora, dim = counted_lora(config, adapter), config.gradients.dim
    if not config.gradients.exact and dim > lora.counted:
        which = f" of {lora.layers}" if lora.layers else ""
        raise UserError(
            f"gradients.dim {dim} exceeds the {lora.counted} LoRA parameters{which}; lower it, "
            "or use gradients.projection none"
        )
    return lora


def feature_fingerprint(config: Config, checkpoint: int | str) -> Fingerprint:
    """Everything but gradient type and data that decides a row at a checkpoint."""
    folder = RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter)
    if not folder.is_dir():
        steps = "" if checkpoint == "final" else f", and warmup.save_steps must divide {checkpoint}"
        raise UserError(f"no adapter {folder}; run `icons warmup` first or set model.adapter{steps}")
    if config.model.adapter is None:
        adam = ["optimizer.pt"] if config.gradients.type == "adam" else []
        require_as_trained(folder, ["adapter_model.safetensors", "adapter_config.json", *adam])
    gradients = config.gradients
    require_counted(config, folder)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    fields = row_settings(config)
    fields.pop("gradient_type")
    return {
        **fields,
        "base_model": model_digest(model_folder(config.model.base)),
        "adapter": file_digest(folder / "adapter_model.safetensors")[:16],
        "lora": digest({key: settings.get(key) for key in LORA_SETTINGS}),
        "projection_version": VERSIONS[gradients.projection],
    }


def require_unchanged(now: Fingerprint, before: Fingerprint) -> None:
    """Raises UserError when a file that was read is another by now; fields that one of the two lacks are left out."""
    for field in now.keys() & before.keys():
        if now[field] != before[field]:
            raise UserError(f"{named(field)} changed while this stage began; run it again")


def require_as_trained(folder: Path, names: list[str]) -> None:
    """Raises UserError when one of these files of a warm-up's checkpoint is no longer as the warm-up left it.

    final/ is a copy of the newest checkpoint and can be made again alone; an earlier checkpoint cannot.
    """
    broken = damaged(folder, names)
    if broken:
        again = folder if folder.name == "final" else folder.parent
        raise UserError(
            f"{broken[0]} is damaged (not as the warm-up wrote it); delete {again} and run `icons warmup` again"
        )


def _data(records: Records) -> Fingerprint:
    return {"data": records.sha256[:16], "num_rows": len(records)}
