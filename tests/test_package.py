"""What is installed and what is published: the wheel and the source archive hold all that they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
NOT_OURS = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
PARTS = ("icons", "configs", "scripts", "docs", "tests", "benchmarks", ".ci")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from a copy of the sources, by what is installed: no network."""
    root = tmp_path_factory.mktemp("sources")
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, symlinks=True, ignore=NOT_OURS)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, root)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root / "dist"


def files_of(*parts: str) -> set[str]:
    """Paths under the root of the files in these folders, links followed; nothing that a program left there."""
    found = {path for part in parts for pattern in ("**/*", "examples/*/*") for path in (ROOT / part).glob(pattern)}
    names = {path.relative_to(ROOT).as_posix() for path in found if path.is_file()}
    return {name for name in names if "__pycache__" not in name and "egg-info" not in name}


def test_the_wheel_holds_the_package_and_the_examples_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert names == files_of("icons")
        for folder in ("configs", "scripts"):
            for original in (ROOT / folder).iterdir():
                assert wheel.read(f"icons/examples/{folder}/{original.name}") == original.read_bytes()
        assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_source_archive_holds_what_the_tests_and_the_documents_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    wanted = files_of(*PARTS) | {
        "README.md",
        "LICENSE",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "CITATION.cff",
    }
    assert wanted - members.keys() == set()
    assert [name for name in files_of("icons/examples") if not members[name].isfile()] == []


def test_the_demo_installs_nothing_that_only_the_tests_need(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    # `make test` runs this too: the flags that it hands down would have a make in here say which folder it is in.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = {
        goal: subprocess.run(
            ["make", "-n", goal], cwd=tmp_path, env=alone, capture_output=True, text=True, check=True
        ).stdout
        for goal in ("demo", "test")
    }
    assert "-e .\n" in done["demo"]
    assert "[test]" not in done["demo"]
    assert done["test"].index("-e .\n") < done["test"].index("-e '.[test]'\n") < done["test"].index("pytest")
