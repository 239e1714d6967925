"""The config as one typed, frozen object; `icons.config_file` reads it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from icons.config_data import DataSection
from icons.config_section import MOST, FilePath, Section, Seed, nameable
from icons.errors import UserError
from icons.gradients.kinds import EXACT, PROJECTIONS
from icons.gradients.layers import ALL, last_layers
from icons.selection.methods import built_in

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


RESERVED = ("parts", "scores.safetensors")  # what else lies beside the tasks' folders


def _free_name(value: str) -> str:
    if value in RESERVED:
        raise ValueError(f"{value!r} is a name of icons' own; choose another")
    return value


TaskName = Annotated[FileName, AfterValidator(_free_name)]


def _nameable_text(value: str) -> str:
    nameable(Path(value))
    return value


class LoraConfig(Section):
    r: int = Field(128, ge=1, le=MOST)
    alpha: int = Field(256, ge=1, le=MOST)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] | None = None  # null = every linear layer of the language model


class ModelConfig(Section):
    base: Annotated[str, AfterValidator(_nameable_text)]
    adapter: FilePath | None = None  # null = the one that `icons warmup` writes
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    quantization: Literal["8bit", "4bit"] | None = None  # of the language model's weights; null = as dtype says
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    device_map: Literal["auto"] | None = None  # auto = one model over all visible GPUs, in the gradient stages
    template: Literal["vicuna_v1", "chat_template"] = "vicuna_v1"  # chat_template = the one in the model's folder
    template_date: date = date(2024, 7, 26)  # the day that a chat template is told when it asks for today's
    image_aspect_ratio: Literal["pad", "square"] = "pad"
    max_length: int = Field(2048, ge=8, le=MOST)
    trust_remote_code: bool = False  # run the Python files that a model folder brings along
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="after")
    def _the_map_has_all_devices(self) -> ModelConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(
                f"device_map: auto takes all visible GPUs, and device names {self.device}; set device to auto, or "
                "leave device_map out"
            )
        return self


class TrainConfig(DataSection):
    num_chunks: int = Field(1, ge=1, le=99999)


class TrainingConfig(Section):
    """LLaVA-1.5's LoRA recipe (arXiv 2310.03744), shared by the warm-up and the final run."""

    epochs: int = Field(1, ge=1, le=MOST)
    max_steps: int | None = Field(None, ge=1, le=MOST)  # null = as many as the epochs hold
    learning_rate: float = Field(2.0e-4, gt=0)
    projector_learning_rate: float | None = Field(2.0e-5, gt=0)  # null = the projector stays as it is
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    batch_size: int = Field(16, ge=1, le=MOST)  # of each process
    gradient_accumulation: int = Field(1, ge=1, le=MOST)
    save_steps: int = Field(100, ge=1, le=MOST)
    seed: Seed = 0


class WarmupConfig(TrainingConfig):
    fraction: float = Field(0.05, gt=0, le=1)
    max_steps: int | None = Field(500, ge=1, le=MOST)


class FinetuneConfig(TrainingConfig):
    save_steps: int = Field(500, ge=1, le=MOST)


class PruningConfig(Section):
    """Which samples the epochs of `warmup` and `finetune` leave out; InfoBatch as published (arXiv 2303.04947)."""

    pruning: Literal["infobatch"] | None = None  # null = every epoch has every sample
    ratio: float = Field(0.5, gt=0, lt=1)
    delta: float = Field(0.875, gt=0, le=1)


class TaskConfig(DataSection):
    name: TaskName
    group: TaskName | None = None  # tasks of one group count as one: element-wise maximum of their scores


def _known_checkpoint(value: int | str) -> int | str:
    if value != "final" and not (isinstance(value, int) and value > 0):
        raise ValueError(f"{value!r} is neither 'final' nor a step of the warm-up such as 500")
    return value


def _known_projection(value: str) -> str:
    kinds = [*PROJECTIONS, EXACT]
    if value not in kinds:
        raise ValueError(f"expected one of {', '.join(kinds)}")
    return value


def _known_layers(value: str) -> str:
    last_layers(value)
    return value


class GradientConfig(Section):
    checkpoints: list[Annotated[int | str, AfterValidator(_known_checkpoint)]] = Field(["final"], min_length=1)
    checkpoint_weights: list[float] | None = None  # null = the warm-up's mean learning rate up to each (LESS)
    type: Literal["sgd", "sign", "adam"] = "sgd"
    layers: Annotated[str, AfterValidator(_known_layers)] = ALL  # or last-N: LoRA gradients of the last N layers alone
    projection: Annotated[str, AfterValidator(_known_projection)] = "count_sketch"  # none = exact scores
    dim: int = Field(5120, ge=1, le=MOST)
    seed: int = Field(0, gt=-(2**63), lt=2**63)
    tokens_per_batch: int | None = Field(None, ge=1, le=MOST)  # padded; null = by a GPU's memory, 2048 on a CPU
    shard_rows: int = Field(4096, ge=1, le=MOST)
    num_workers: int | None = Field(None, ge=0, le=4096)  # that decode images; null = none on a CPU, up to 8 for a GPU
    workers: int | None = Field(None, ge=1, le=4096)  # processes that compute chunks; null = one for each visible GPU

    @property
    def exact(self) -> bool:
        """Whether the training pass leaves exact scores; otherwise it leaves projected rows."""
        return self.projection == EXACT


class InfluenceConfig(Section):
    save_matrix: bool = True


class SpiceConfig(Section):
    """SPICE (arXiv 2601.23155): candidates come in pools, of each the best are kept."""

    pool: int = Field(128, ge=2, le=MOST)
    keep: int = Field(64, ge=1, le=MOST)
    alpha: float = Field(1.0, ge=1e-12, le=1e12)  # what float32 has room for beside gradients
    penalty: float = Field(0.1, ge=0, le=1e12)  # lambda, of a conflict with what is selected
    stop: float = Field(0.0, ge=0, lt=1)  # a pool ends when the gain falls below this part of its first


class ProportionalConfig(Section):
    approve: float | None = Field(None, gt=0, le=100)  # percent of the rows that a voter approves; null = from the data


class CoverageConfig(Section):
    voters: int | None = Field(None, ge=1, le=MOST)  # of each task at most, drawn by seed; null = all
    pool: int | None = Field(None, ge=2, le=MOST)  # rows that compete at a time; null = all, 1000 of very many


def _selection_name(keys: dict[str, Any]) -> str:
    """From the keys that stand before `name`."""
    method, percent, seed = keys.get("method", "vote"), keys.get("percent", 20), keys.get("seed", 0)
    task = f"-{keys['task']}" if method == "less" and keys.get("task") else ""
    drawn = f"-seed{seed}" if method in ("random", "spice") and seed else ""
    return f"{method}{task}-{_short(percent)}{drawn}"


def _short(percent: float) -> str:
    """20, 33.33333: as many digits as tell it from every other number."""
    return str(int(percent)) if percent == int(percent) else repr(float(percent))


class SelectionConfig(Section):
    method: str = Field("vote", pattern=r"^[a-z0-9][a-z0-9-]*$")
    percent: float = Field(20, gt=0, le=100)
    tie_break: Literal["rank", "random", "index"] = "rank"
    seed: Seed = 0
    task: TaskName | None = None  # of the method `less`
    plugin: FilePath | None = None  # a Python file with methods of your own
    options: dict[str, Any] = Field({})  # of a method of your own, which checks them
    proportional: ProportionalConfig = ProportionalConfig()
    coverage: CoverageConfig = CoverageConfig()
    spice: SpiceConfig = SpiceConfig()
    stability: bool = False
    stability_with: FilePath | None = None  # output_dir of another run, to compare selections with
    name: FileName = Field(default_factory=_selection_name)  # null = method and percent: vote-20

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default_name(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("name", "") is None:
            return {key: value for key, value in raw.items() if key != "name"}
        return raw

    @model_validator(mode="after")
    def _method_is_known(self) -> SelectionConfig:
        methods = built_in()
        if self.plugin is None and self.method not in methods:
            raise ValueError(f"method: {self.method!r} is none of {', '.join(methods)}; selection.plugin adds others")
        return self


class EvaluationConfig(Section):
    tasks: list[TaskConfig] = Field([])  # held-out files; empty = the target tasks' own, an optimistic measure

    @model_validator(mode="after")
    def _names_are_unique(self) -> EvaluationConfig:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tasks: the name {name!r} is used {names.count(name)} times; give each task its own")
        return self


class Config(Section):
    output_dir: FilePath
    model: ModelConfig
    train: TrainConfig
    warmup: WarmupConfig = WarmupConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    training: PruningConfig = PruningConfig()
    tasks: list[TaskConfig] = Field(min_length=1)
    gradients: GradientConfig = GradientConfig()
    influence: InfluenceConfig = InfluenceConfig()
    selection: SelectionConfig = SelectionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
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
        if self.model.device_map is not None and (self.gradients.workers or 1) > 1:
            raise ValueError(
                f"gradients.workers: {self.gradients.workers} processes cannot each have all GPUs, as "
                "model.device_map: auto asks for; leave one of the two out"
            )
        self._selection_can_be_made()
        return self

    def _selection_can_be_made(self) -> None:
        """Known before the gradients are computed: what a built-in method will ask for."""
        method, task = self.selection.method, self.selection.task
        if method in ("spice", "proportional", "coverage") and self.gradients.exact:
            raise ValueError(
                f"selection.method {method} needs projected gradients, and gradients.projection: none stores scores "
                "alone"
            )
        if method == "less" and task is None and len(self.columns) > 1:
            raise ValueError(
                f"selection.method less selects for one task; name it in selection.task: {', '.join(self.columns)}"
            )
        if task is not None and task not in self.columns:
            raise ValueError(f"selection.task: {task!r} is not scored; there are {', '.join(self.columns)}")

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
