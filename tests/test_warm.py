"""The programs of tests/warm.py are processes like any other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.warm import Program, ran

SAYS = "import os, sys\nprint('torch' in sys.modules, sys.argv, os.environ.get('OWN'), os.getcwd(), os.getppid())"


def test_arguments_environment_and_folder_are_its_own(tmp_path: Path) -> None:
    program = Program("-c", SAYS, "a b", 1, environment={"OWN": "x"}, folder=tmp_path)
    out, err = program.communicate()
    assert (program.returncode, err) == (0, "")
    assert out.startswith(f"True ['-c', 'a b', '1'] x {tmp_path} ")
    assert int(out.split()[-1]) != os.getpid()
    assert "OWN" not in os.environ


def test_how_it_ends_is_told(tmp_path: Path) -> None:
    failed = Program("-c", "import sys; print('why', file=sys.stderr); sys.exit(3)")
    assert failed.communicate() == ("", "why\n")
    assert failed.returncode == 3
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ran("-c", "1 / 0")
    (tmp_path / "program.py").write_text("import time; print('begun', flush=True); time.sleep(600)")
    program = Program(tmp_path / "program.py")
    program.kill_when(lambda: True)
    assert program.returncode == -signal.SIGKILL
    with pytest.raises(AssertionError, match="ended too early"):
        Program("-c", "pass").wait_until(lambda: False)
