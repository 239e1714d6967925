"""`icons validate`: reads everything that a run will need and lists all problems at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError, safe_open

from icons.config import Config, TaskConfig, TrainConfig
from icons.config_file import missing_files
from icons.data.batches import with_readable_images
from icons.data.formats import InputFormat
from icons.data.images import is_deep
from icons.data.records import is_hub_id
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.errors import UserError
from icons.models.adapters import require_fit
from icons.models.folders import model_folder
from icons.models.formats import input_format
from icons.models.loading import meta_model
from icons.models.place import pick_devices
from icons.models.quantization import require_bitsandbytes
from icons.plain import in_line
from icons.progress import Progress, say
from icons.report.problems import by_kind
from icons.stages.checks.disk import disk_of, existing_parent
from icons.stages.generalist.select import about_percent
from icons.stages.specialist.fingerprints import require_counted
from icons.stages.training.warmup import about_steps, planned_steps
from icons.store.files import read_json, write_bytes
from icons.store.layout import RunFolder

ROWS_AT_ONCE = 1024
SHOWN = 3
"""Problems of a kind that are printed."""


def validate(config: Config) -> None:
    """Prints a line per problem and raises UserError with their count; says so when there is none."""
    problems = missing_files(config) + _output_problems(config.output_dir)
    inputs, more = _model_problems(config)
    problems += more
    sizes: list[int] = []
    files: list[tuple[str, TrainConfig | TaskConfig]] = [("training data", config.train)]
    for name, data in files + [(task.name, task) for task in config.tasks]:
        more, size = _data_problems(name, data, inputs)
        problems += more
        sizes.append(size)
    if sizes[0] and config.train.num_chunks > sizes[0]:
        problems.append(
            f"train.num_chunks {config.train.num_chunks} exceeds the {sizes[0]} records of {config.train.title}"
        )
    problems += _space_problems(config, sizes[0], sum(sizes))
    for warning in inputs.warnings if inputs is not None else ():
        say(f"note: {warning}")
    for note in _notes(config, sizes[0]):
        say(f"note: {note}")
    if problems:
        _list(problems, config.output_dir)
    say(f"validate: {sizes[0]} training and {sum(sizes[1:])} validation records, every image and the model: no problem")


def _notes(config: Config, num_rows: int) -> list[str]:
    """What is allowed and yet rarely meant."""
    notes = [about_steps(config, num_rows) if num_rows else None, about_percent(config.selection.percent, num_rows)]
    try:
        pick_devices(config.model)
    except UserError as error:  # no problem where one validates on a login node
        notes.append(str(error))
    return [note for note in notes if note]


def _list(problems: list[str], output_dir: Path) -> NoReturn:
    """Up to three of each kind; where that leaves some out, all of them go to a file."""
    kinds = by_kind(problems, len(problems))
    for kind in kinds:
        for example in kind.examples[:SHOWN]:
            say(example)
        if kind.count > SHOWN:
            say(f"  ... and {kind.count - SHOWN} more of this kind")
    many = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found"
    if all(kind.count <= SHOWN for kind in kinds):
        raise UserError(f"{many}, listed above")
    path = output_dir / "problems.txt"
    try:
        write_bytes(path, "".join(f"{in_line(problem, 2000)}\n" for problem in problems).encode())
    except OSError as error:
        raise UserError(f"{many}; {path} cannot be written ({error.strerror})") from None
    raise UserError(f"{many}, all of them in {path}")


def _data_problems(name: str, data: TrainConfig | TaskConfig, inputs: InputFormat | None) -> tuple[list[str], int]:
    if not all(is_hub_id(part.path) or part.path.exists() for part in data.parts):
        return [], 0  # reported as missing
    try:
        records = open_records(data.parts)
    except UserError as error:
        return [str(error)], 0
    say(f"{name}: {len(records)} records, {records.container}, form {records.form}")
    if inputs is None:
        return [], len(records)
    source, reasons, deep = DataSource(records, inputs), [], list[str]()
    with Progress(f"validate {name}", len(records)) as progress:
        for start in range(0, len(records), ROWS_AT_ONCE):
            rows = range(start, min(start + ROWS_AT_ONCE, len(records)))
            samples, bad = source.samples(rows)
            reasons += [(record.row, record.reason) for record in bad]
            readable, bad = with_readable_images(samples, inputs)
            reasons += [(record.row, record.reason) for record in bad]
            deep += [str(path) for path in {path for sample in readable for path in sample.images} if is_deep(path)]
            progress.advance(len(rows))
    if deep:
        say(f"note: {name}: images of 16 bits a channel, scaled to 8: {len(deep)}, such as {min(deep)}")
    reasons.sort()
    return [reason for _, reason in reasons], len(records)


def _model_problems(config: Config) -> tuple[InputFormat | None, list[str]]:
    """The input format when the model folder gives one, and what is wrong with the folder or the adapter."""
    problems: list[str] = []
    inputs, model_is_there = None, False
    try:
        folder = model_folder(config.model.base)
        model_is_there = True
        inputs = input_format(folder, config.model)
        problems += _unreadable_weights(folder)
        require_bitsandbytes(config.model)
        if config.model.adapter is None:
            require_counted(config, None)
    except UserError as error:
        problems.append(str(error))
    if config.model.adapter is not None and config.model.adapter.is_dir():
        for checkpoint in config.gradients.checkpoints:
            try:
                adapter = RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter)
                require_counted(config, adapter)
                if model_is_there:
                    require_fit(adapter, meta_model(config.model))
            except UserError as error:
                problems.append(str(error))
    return inputs, problems


def _unreadable_weights(folder: Path) -> list[str]:
    problems = []
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted({str(name) for name in read_json(index)["weight_map"].values()})
        except (UserError, AttributeError, KeyError, TypeError) as error:
            return [f"model.base: {index} is not the index of a model's weights ({type(error).__name__})"]
        problems = [f"model.base: {folder / name} is not there" for name in names if not (folder / name).is_file()]
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            problems.append(f"model.base: {path} cannot be read ({in_line(error, 200)})")
    return problems


def _output_problems(folder: Path) -> list[str]:
    """Whether files can be made in the output folder, tried in it or in the nearest parent that exists."""
    existing = existing_parent(folder)
    try:
        probe = existing / f".icons-probe-{os.getpid()}"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = "is not a folder" if error.errno == errno.ENOTDIR else f"cannot be written to ({error.strerror})"
        return [f"output_dir: {existing} {reason}"]
    return []


def _space_problems(config: Config, num_train: int, rows: int) -> list[str]:
    try:
        disk = disk_of(config, rows, planned_steps(config, num_train) if num_train else 0)
    except UserError:
        return []  # the model cannot be read, which is told
    if disk.needed <= disk.free:
        return []
    return [
        f"output_dir: the run needs {disk.needed / 1e9:.1f} GB (warm-up {disk.warmup / 1e9:.1f}, gradients "
        f"{disk.gradients / 1e9:.1f}), {existing_parent(config.output_dir)} has {disk.free / 1e9:.1f} GB free"
    ]
