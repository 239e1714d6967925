"""A tiny LLaVA, a small drawn VQA set, and one finished run: built once, copied by the tests that change them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from icons.cli import main
from icons.demo.drawing import draw_vqa_set

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it, before torch is imported
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
collect_ignore = ["clients"]  # unless named on the command line: their set-up installs gigabytes


LONGEST = (
    "slurm/", "benchmarks/", "generalist/test_trial", "specialist/test_workers", "training/test_infobatch",
    "training/test_finetune", "demo/", "checks/test_bad_input", "specialist/test_pipeline", "specialist/test_exact",
)  # fmt: skip
"""Files that take half a minute or more come first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {item: next((at for at, part in enumerate(LONGEST) if part in item.nodeid), len(LONGEST)) for item in items}
    items.sort(key=order.__getitem__)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def icons(*arguments: object) -> Outcome:
    """Runs the command line in this process, as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
    return Outcome(int(code), out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Project:
    """A folder with a model, data and `config.yaml`; `raw` is the config to change and `save`."""

    root: Path
    raw: dict[str, Any]

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def save(self) -> None:
        self.config.write_text(yaml.safe_dump(self.raw, sort_keys=False))

    def icons(self, command: str, *options: object) -> Outcome:
        return icons(command, self.config, *options)


def project_config(root: Path, model: Path) -> dict[str, Any]:
    names = sorted(path.stem for path in (root / "data" / "tasks").glob("*.json"))
    groups = {"left_right": "position", "above_below": "position"}
    tasks = [
        {"name": name, "group": groups.get(name), "data": f"data/tasks/{name}.json", "images": "data/images"}
        for name in names
    ]
    return {
        "output_dir": "run",
        "model": {"base": str(model), "dtype": "float32", "device": "cpu", "lora": {"r": 4, "alpha": 8}},
        "train": {"data": "data/train.json", "images": "data/images", "num_chunks": 3},
        "warmup": {"fraction": 0.3, "max_steps": 4, "batch_size": 8, "save_steps": 2, "learning_rate": 1.0e-3},
        "tasks": tasks,
        "gradients": {"dim": 512, "tokens_per_batch": 2048, "shard_rows": 16},
    }


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from icons.models.tiny import build_tiny_llava

    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny_llava(folder)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_vqa_set(folder / "data", train_records=100, val_records=6)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, drawn: Path, tiny_model: Path) -> Project:
    """A run that went through undisturbed. Read only."""
    root = tmp_path_factory.mktemp("finished run")
    shutil.copytree(drawn / "data", root / "data")
    project = Project(root, project_config(root, tiny_model))
    project.save()
    outcome = project.icons("run")
    assert outcome.code == 0, outcome.err
    return project


@pytest.fixture
def project(tmp_path: Path, drawn: Path, tiny_model: Path) -> Project:
    """A fresh project, nothing run yet."""
    shutil.copytree(drawn / "data", tmp_path / "data")
    project = Project(tmp_path, project_config(tmp_path, tiny_model))
    project.save()
    return project


@pytest.fixture
def copy_of_finished(finished: Project, tmp_path: Path) -> Project:
    """The finished run's files in a folder of one's own, to damage and run again."""
    shutil.copytree(finished.root, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path, yaml.safe_load(finished.config.read_text()))
