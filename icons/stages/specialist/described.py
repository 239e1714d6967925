"""What the config and the files that it names say a run is made of, field by field.

The scores keep it, and whatever uses rows, scores or selections later compares it with the config of that moment. What
cannot be told any more, as a model's folder or an adapter is gone, is left out of the comparison; a key of the config
never is. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from icons.config import Config, ModelConfig
from icons.config_data import DataSection
from icons.data.sets import data_digest
from icons.errors import UserError
from icons.gradients.layers import ALL
from icons.models.foreign import require_plain_folder
from icons.store.files import read_sealed
from icons.store.fingerprint import LATER, Fingerprint, file_digest, model_digest
from icons.store.layout import RunFolder, checkpoint_name
from icons.store.whole import MARKER

KEYS = {
    "base_model": "model.base", "dtype": "model.dtype", "quantization": "model.quantization",
    "template": "model.template",
    "image_aspect_ratio": "model.image_aspect_ratio", "max_length": "model.max_length", "data": "train.data",
    "template_date": "model.template_date", "gradient_type": "gradients.type", "layers": "gradients.layers",
    "projection": "gradients.projection", "dim": "gradients.dim",
    "projection_seed": "gradients.seed", "checkpoints": "gradients.checkpoints",
    "checkpoint_weights": "gradients.checkpoint_weights", "columns": "tasks",
}  # fmt: skip
"""Field of a fingerprint -> key of the config."""


def described(config: Config) -> Fingerprint:
    """Every field that can be told now; the tasks' files as `task <name>`, the adapters as `adapter <checkpoint>`."""
    weights = config.gradients.checkpoint_weights
    fields = row_settings(config) | {
        "columns": columns_text(config),
        "checkpoints": ",".join(map(str, config.gradients.checkpoints)),
        "checkpoint_weights": None if weights is None else ",".join(map(repr, weights)),
    }
    files: dict[str, DataSection] = {"data": config.train} | {f"task {task.name}": task for task in config.tasks}
    for name, section in files.items():
        if all(part.path.exists() for part in section.parts):
            fields[name] = data_digest(section.parts)[:16]
    for checkpoint in config.gradients.checkpoints:
        if adapter := adapter_digest(config, checkpoint):
            fields[f"adapter {checkpoint}"] = adapter
    return fields


def input_settings(model: ModelConfig) -> Fingerprint:
    """The keys that decide how the model sees a record, in every fingerprint of what is trained, computed or asked."""
    fields: Fingerprint = {
        "dtype": model.dtype,
        "template": model.template,
        "image_aspect_ratio": model.image_aspect_ratio,
        "max_length": model.max_length,
    }
    if model.quantization is not None:
        fields["quantization"] = model.quantization
    return fields | ({"template_date": str(model.template_date)} if model.template == "chat_template" else {})


def columns_text(config: Config) -> str:
    """The columns of the scores and their tasks, in their order."""
    return ";".join(f"{column}={'+'.join(members)}" for column, members in config.columns.items())


def row_settings(config: Config) -> Fingerprint:
    """The fields of every gradient row, named as in the fingerprints of rows: keys of the config, and the model."""
    gradients = config.gradients
    fields: Fingerprint = {
        **input_settings(config.model),
        "gradient_type": gradients.type,
        "projection": gradients.projection,
        "dim": None if gradients.exact else gradients.dim,
        "projection_seed": None if gradients.exact else gradients.seed,
    }
    if gradients.layers != ALL:
        fields["layers"] = gradients.layers
    base = Path(config.model.base)
    if base.is_absolute() and base.is_dir():
        require_plain_folder(base, "model.base")
        fields["base_model"] = model_digest(base)
    return fields


def val_type(train_type: str) -> str:
    """The gradient type of the validation side (LESS, arXiv 2402.04333: Adam on the training side only)."""
    return "sgd" if train_type == "adam" else train_type


def adapter_digest(config: Config, checkpoint: int | str) -> str | None:
    """Of a checkpoint's adapter file, from the warm-up's marker where it has one; None where there is no such file."""
    folder = RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter)
    name = "adapter_model.safetensors"
    if not (folder / name).is_file():
        return None
    try:
        return str(read_sealed(folder / MARKER, "")["files"][name])[:16]
    except (UserError, KeyError, TypeError):
        stat = (folder / name).stat()
        return _adapter_sha256(folder / name, stat.st_size, stat.st_mtime_ns)[:16]


@lru_cache(maxsize=64)
def _adapter_sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Read once while it stays: `status --watch` asks every ten seconds."""
    return file_digest(path)


def difference(stored: Mapping[str, object], expected: Mapping[str, object]) -> str | None:
    """`gradients.seed is 1 there, 2 in the config`: the first field that both have, with two values; None: the same.

    Of nothing stored nothing differs.
    """
    if not stored.keys() & expected.keys():
        return None
    stored, expected = LATER | dict(stored), LATER | dict(expected)
    for field in sorted(stored.keys() & expected.keys()):
        if stored[field] != expected[field]:
            if is_file(field):
                return f"{named(field)} is another file by now"
            return f"{named(field)} is {stored[field]!r} there, {expected[field]!r} in the config"
    return None


def named(field: str) -> str:
    """A field in the config's words."""
    if field.startswith("task "):
        return f"the file of {field}"
    if field.startswith("adapter"):
        return f"the {checkpoint_name(field.partition(' ')[2]) or 'checkpoint'} adapter"
    return KEYS.get(field, field)


def is_file(field: str) -> bool:
    """Whether a field is the digest of a file or folder, whose value tells a person nothing."""
    return field in {"data", "base_model", "adapter", "moments"} or field.startswith(("task ", "adapter "))
