"""What a training is made of, and the manifest of its folder, which says what it was begun with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icons.config import Config, TrainingConfig
from icons.data.records import Records
from icons.data.sets import data_digest
from icons.errors import UserError
from icons.stages.specialist.described import input_settings
from icons.store.checkpoints import our_checkpoints
from icons.store.files import read_sealed
from icons.store.fingerprint import Fingerprint, model_digest, require_same

if TYPE_CHECKING:
    from icons.models.vlm import VisionLanguageModel


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


def begun_manifest(config: Config, job: Job) -> dict[str, Any] | None:
    """The folder's manifest, None where nothing was begun; a UserError when it is damaged or of other inputs."""
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
    asked = training_fingerprint(config, job, data_digest(config.train.parts))
    require_same(manifest["fingerprint"], asked, f"{job.folder} was begun with other inputs", advice)
    return manifest


def training_fingerprint(config: Config, job: Job, sha256: str) -> Fingerprint:
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
