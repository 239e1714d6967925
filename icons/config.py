"""The YAML file as one typed, frozen object, checked once at the door.

Paths in the file are relative to the file. `--set dotted.key=value` overrides a key; the value is read as YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from icons.errors import UserError

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


RESERVED = ("parts", "scores.safetensors")  # what else lies beside the tasks' folders


def _free_name(value: str) -> str:
    if value in RESERVED:
        raise ValueError(f"{value!r} is a name of icons' own; choose another")
    return value


TaskName = Annotated[FileName, AfterValidator(_free_name)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)


class LoraConfig(_Section):
    r: int = Field(128, ge=1)
    alpha: int = Field(256, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] | None = None  # null = every linear layer of the language model


class ModelConfig(_Section):
    base: str
    adapter: Path | None = None  # null = the one that `icons warmup` writes
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    template: Literal["vicuna_v1", "chat_template"] = "vicuna_v1"  # chat_template = the one in the model's folder
    image_aspect_ratio: Literal["pad", "square"] = "pad"
    max_length: int = Field(2048, ge=8)
    trust_remote_code: bool = False  # run the Python files that a model folder brings along
    lora: LoraConfig = LoraConfig()


class TrainConfig(_Section):
    data: Path
    images: Path | None = None
    num_chunks: int = Field(1, ge=1, le=99999)


class TrainingConfig(_Section):
    """LLaVA-1.5's LoRA recipe (arXiv 2310.03744), shared by the warm-up and the final run."""

    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)  # null = as many as the epochs hold
    learning_rate: float = Field(2.0e-4, gt=0)
    projector_learning_rate: float | None = Field(2.0e-5, gt=0)  # null = the projector stays as it is
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    batch_size: int = Field(16, ge=1)  # of each process
    gradient_accumulation: int = Field(1, ge=1)
    save_steps: int = Field(100, ge=1)
    seed: int = Field(0, ge=0)


class WarmupConfig(TrainingConfig):
    fraction: float = Field(0.05, gt=0, le=1)
    max_steps: int | None = Field(500, ge=1)


class FinetuneConfig(TrainingConfig):
    save_steps: int = Field(500, ge=1)


class TaskConfig(_Section):
    name: TaskName
    group: TaskName | None = None  # tasks of one group count as one: element-wise maximum of their scores
    data: Path
    images: Path | None = None


def _known_checkpoint(value: int | str) -> int | str:
    if value != "final" and not (isinstance(value, int) and value > 0):
        raise ValueError(f"{value!r} is neither 'final' nor a step of the warm-up such as 500")
    return value


class GradientConfig(_Section):
    checkpoints: list[Annotated[int | str, AfterValidator(_known_checkpoint)]] = Field(["final"], min_length=1)
    checkpoint_weights: list[float] | None = None  # null = the warm-up's mean learning rate up to each (LESS)
    type: Literal["sgd", "sign", "adam"] = "sgd"
    projection: Literal["count_sketch", "rademacher", "none"] = "count_sketch"
    dim: int = Field(5120, ge=1)
    seed: int = 0
    tokens_per_batch: int | None = Field(None, ge=1)  # padded tokens at once; null = 16384 on a GPU, 2048 on a CPU
    shard_rows: int = Field(4096, ge=1)
    num_workers: int | None = Field(None, ge=0)  # processes that decode images; null = none on a CPU, up to 8 for a GPU
    workers: int | None = Field(None, ge=1)  # processes that compute chunks; null = one for each visible GPU


class InfluenceConfig(_Section):
    save_matrix: bool = True


class SelectionConfig(_Section):
    name: FileName = "vote-20"
    method: Literal["vote"] = "vote"
    percent: float = Field(20, gt=0, le=100)
    tie_break: Literal["rank", "random", "index"] = "rank"
    seed: int = 0


class Config(_Section):
    output_dir: Path
    model: ModelConfig
    train: TrainConfig
    warmup: WarmupConfig = WarmupConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    tasks: list[TaskConfig] = Field(min_length=1)
    gradients: GradientConfig = GradientConfig()
    influence: InfluenceConfig = InfluenceConfig()
    selection: SelectionConfig = SelectionConfig()
    on_bad_record: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tasks: the name {name!r} is used {names.count(name)} times; give each task its own")
        groups = {task.group for task in self.tasks if task.group}
        for clash in groups & {task.name for task in self.tasks if task.group is None}:
            raise ValueError(f"tasks: {clash!r} names both a group and a task outside it")
        if len(set(self.gradients.checkpoints)) < len(self.gradients.checkpoints):
            raise ValueError("gradients.checkpoints: a checkpoint is listed twice")
        weights = self.gradients.checkpoint_weights
        if weights is not None and (len(weights) != len(self.gradients.checkpoints) or min(weights) <= 0):
            raise ValueError("gradients.checkpoint_weights: expected one positive number for each checkpoint")
        return self

    @property
    def columns(self) -> dict[str, list[str]]:
        """Column of the score table -> its member tasks, in the order of the file (a group is one column)."""
        columns: dict[str, list[str]] = {}
        for task in self.tasks:
            columns.setdefault(task.group or task.name, []).append(task.name)
        return columns

    def task(self, name: str) -> TaskConfig:
        """The task called `name`; a UserError that lists the known ones otherwise."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise UserError(f"no task {name!r} in the config; its tasks are {', '.join(t.name for t in self.tasks)}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads, overrides, checks; every path comes back absolute.

    Raises UserError naming file, line and key for each thing that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config file ({_reason(error)})") from None
    try:
        raw = yaml.safe_load(text)
        lines = _lines_of_keys(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected keys such as output_dir, model, train and tasks, found {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(path, problem, lines) for problem in error.errors()]
        raise UserError("\n".join(problems)) from None
    return _resolve(config, path.absolute().parent)


def missing_files(config: Config) -> list[str]:
    """One line for every file or folder that the config names and that is not there."""
    wanted: list[tuple[str, Path | None, bool]] = [
        ("train.data", config.train.data, False),
        ("train.images", config.train.images, True),
        ("model.adapter", config.model.adapter, True),
    ]
    for index, task in enumerate(config.tasks):
        wanted.append((f"tasks.{index}.data ({task.name})", task.data, False))
        wanted.append((f"tasks.{index}.images ({task.name})", task.images, True))
    problems = []
    for key, path, folder in wanted:
        if path is not None and not (path.is_dir() if folder else path.is_file()):
            problems.append(f"{key}: {path} is not {'a folder' if folder else 'a file'}")
    if Path(config.model.base).is_absolute() and not Path(config.model.base).is_dir():
        problems.append(f"model.base: {config.model.base} is not a folder")
    return problems


def dump_config(config: Config) -> str:
    """The resolved config as YAML; loading it again gives an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _resolve(config: Config, folder: Path) -> Config:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(folder, _expanded(path))

    base = _expanded(Path(config.model.base))
    # A Hub id is `name` or `owner/name`; anything else, and anything that is there, is a path.
    named_as_path = config.model.base.startswith(("/", "./", "../", "~")) or len(base.parts) > 2
    is_path = named_as_path or (folder / base).exists()
    model = config.model.model_copy(
        update={
            "base": str(folder / base) if is_path else config.model.base,
            "adapter": absolute(config.model.adapter),
        }
    )
    train = config.train.model_copy(
        update={"data": absolute(config.train.data), "images": absolute(config.train.images)}
    )
    tasks = [t.model_copy(update={"data": absolute(t.data), "images": absolute(t.images)}) for t in config.tasks]
    output = absolute(config.output_dir)
    return config.model_copy(update={"output_dir": output, "model": model, "train": train, "tasks": tasks})


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user's home folder") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected dotted.key=value, for example --set selection.percent=10")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML") from None
    node: Any = raw
    parts = key.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f"--set {override}: {'.'.join(parts[:depth])} has entries 0 to {len(node) - 1}")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if node.get(index) is None and not last:
                node[index] = {}
        else:
            raise UserError(f"--set {override}: {'.'.join(parts[:depth])} is a single value, it has no {part!r}")
        if last:
            node[index] = value
        else:
            node = node[index]


def _lines_of_keys(text: str) -> dict[tuple[str | int, ...], int]:
    lines: dict[tuple[str | int, ...], int] = {}

    def walk(node: yaml.Node, path: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if (*path, key.value) in lines:
                    mark = key.start_mark
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=mark)
                lines[(*path, key.value)] = key.start_mark.line + 1
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                lines[(*path, index)] = value.start_mark.line + 1
                walk(value, (*path, index))

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        walk(root, ())
    return lines


def _explain(path: Path, problem: Any, lines: dict[tuple[str | int, ...], int]) -> str:
    location = tuple(part for part in problem["loc"] if part not in {"int", "str"})
    known = [lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines]
    where = f"{path} line {known[0]}" if known else str(path)
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        candidates = _keys_at(location[:-1])
        near = get_close_matches(str(location[-1]), candidates, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(candidates)}"
        return f"{where}: unknown key {key!r}; {hint}"
    if problem["type"] == "missing":
        return f"{where}: the key {key!r} is missing"
    message = re.sub(r"^Value error, ", "", problem["msg"])
    message = re.sub(r"^Input should be a valid dictionary or instance of \w+", "expected keys below it", message)
    return f"{where}: {key}: {message} (got {problem['input']!r})" if key else f"{where}: {message}"


def _keys_at(location: Iterable[str | int]) -> list[str]:
    section: Any = Config
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = annotation if isinstance(annotation, type) else annotation.__args__[0]
    return list(section.model_fields)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
