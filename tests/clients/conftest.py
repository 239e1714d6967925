"""The clients' tests: run by `make test-clients` alone, since their set-up installs several gigabytes."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from icons.machine import this_machine
from tests.clients import material
from tests.clients.environments import environment, versions
from tests.clients.reading import Comparison, Row, of_icons
from tests.clients.running import Client
from tests.clients.table import RESULTS
from tests.models.test_published_parts import VECTORS, write_parts

TOKENIZER = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The published parts in small, the tokenizer of Vicuna's kind (tokenizer.model).

    How a program joins pieces of text with that of `icons tiny-model` says nothing about Vicuna.
    """
    if not VECTORS.is_dir():
        pytest.skip("a tokenizer.model of Vicuna's kind is not at hand (../shared/data)")
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder, tiny_model)
    for path in (folder / "vicuna").glob("tokenizer*"):
        path.unlink()
    for name in TOKENIZER:
        shutil.copyfile(VECTORS / "tokenizer" / name, folder / "vicuna" / name)
    return folder


@pytest.fixture(scope="session")
def root(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as docs/reproduce.md leaves it; programs write beside it, or into runs/ under names of their own."""
    folder = tmp_path_factory.mktemp("repository")
    material.make(folder, parts)
    return folder


@pytest.fixture(scope="session")
def ours(root: Path) -> list[Row]:
    """The selection as icons reads it."""
    return of_icons(root / material.SELECTION / "selected_data.json", root / material.IMAGES, root / material.MODEL)


@pytest.fixture
def client(root: Path, tmp_path: Path) -> Callable[[str], Client]:
    return lambda name: Client(environment(name), root, tmp_path)


@pytest.fixture(scope="session")
def found() -> Iterator[dict[str, Any]]:
    """What the tests put here, by program, is kept in benchmarks/results/clients.json in the place of the last."""
    facts: dict[str, Any] = {}
    yield facts
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name, own in facts.items():
        machine = this_machine()
        kept[name] = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "hardware": machine["device"],
            "versions": {"python": platform.python_version()}
            | {package: number for package, number in versions(name).items() if package in own["packages"]},
        } | {key: value for key, value in own.items() if key != "packages"}
    RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n")


def as_facts(comparison: Comparison) -> dict[str, Any]:
    differences = [[*texts, count] for texts, count in comparison.differences.items()]
    return vars(comparison) | {"differences": differences}
