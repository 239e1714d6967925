"""`icons validate`: reads everything that a run will need and lists all problems at once."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from icons.config import Config, TaskConfig, TrainConfig, missing_files
from icons.data.images import load_image
from icons.data.records import Records
from icons.data.samples import DataSource, InputFormat
from icons.errors import BadRecordError, UserError
from icons.models.loading import adapter_shapes, input_format, model_folder
from icons.progress import Progress, say
from icons.store.layout import RunFolder

SHOWN_PER_FILE = 20
ROWS_AT_ONCE = 1024


def validate(config: Config) -> None:
    """Prints a line per problem and raises UserError with their count; says so when there is none."""
    problems = missing_files(config) + _output_problems(config.output_dir)
    inputs = None
    try:
        inputs = input_format(model_folder(config.model.base), config.model)
    except UserError as error:
        problems.append(str(error))
    if config.model.adapter is not None and config.model.adapter.is_dir():
        problems += _adapter_problems(config)
    sizes: list[int] = []
    files: list[tuple[str, TrainConfig | TaskConfig]] = [("training data", config.train)]
    for name, data in files + [(task.name, task) for task in config.tasks]:
        found, size = _data_problems(name, data, inputs)
        problems += found
        sizes.append(size)
    if sizes[0] and config.train.num_chunks > sizes[0]:
        problems.append(
            f"train.num_chunks {config.train.num_chunks} exceeds the {sizes[0]} records of {config.train.data}"
        )
    problems += _space_problems(config, sum(sizes))
    for problem in problems:
        say(problem)
    if problems:
        raise UserError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found, listed above")
    say(f"validate: {sizes[0]} training and {sum(sizes[1:])} validation records, every image and the model: no problem")


def _data_problems(name: str, data: TrainConfig | TaskConfig, inputs: InputFormat | None) -> tuple[list[str], int]:
    if not data.data.is_file():
        return [], 0  # reported as missing
    try:
        records = Records(data.data)
    except UserError as error:
        return [str(error)], 0
    if inputs is None:
        return [], len(records)
    source, reasons = DataSource(records, data.images, inputs), []
    seen: dict[Path, str | None] = {}
    with Progress(f"validate {name}", len(records)) as progress:
        for start in range(0, len(records), ROWS_AT_ONCE):
            rows = range(start, min(start + ROWS_AT_ONCE, len(records)))
            samples, bad = source.samples(rows)
            reasons += [(record.row, record.reason) for record in bad]
            for sample in samples:
                if sample.image is None:
                    continue
                if sample.image not in seen:
                    seen[sample.image] = _image_problem(sample.image)
                problem = seen[sample.image]
                if problem is not None:
                    where = records.where(sample.row, records[sample.row])
                    reasons.append((sample.row, f"{where}: {problem}"))
            progress.advance(len(rows))
    reasons.sort()
    return [reason for _, reason in reasons], len(records)


def _image_problem(path: Path) -> str | None:
    try:
        load_image(path)
    except BadRecordError as error:
        return str(error)
    return None


def _adapter_problems(config: Config) -> list[str]:
    problems = []
    for checkpoint in config.gradients.checkpoints:
        try:
            adapter_shapes(RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter))
        except UserError as error:
            problems.append(str(error))
    return problems


def _output_problems(folder: Path) -> list[str]:
    """Whether files can be made in the output folder, tried in it or in the nearest parent that exists."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        probe = existing / f".icons-probe-{os.getpid()}"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = "is not a folder" if error.errno == errno.ENOTDIR else f"cannot be written to ({error.strerror})"
        return [f"output_dir: {existing} {reason}"]
    return []


def _space_problems(config: Config, rows: int) -> list[str]:
    existing = next(parent for parent in (config.output_dir, *config.output_dir.parents) if parent.exists())
    needed = rows * (2 * config.gradients.dim + 29) * len(config.gradients.checkpoints)
    free = shutil.disk_usage(existing).free
    if needed > free:
        return [f"output_dir: the gradients need {needed / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free"]
    return []
