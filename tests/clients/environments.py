"""A virtual environment for each client, under .clients/, at the versions of its file in versions/.

`python -m tests.clients.environments [NAME ...]` makes those that are missing or whose file has changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = Path(__file__).parent / "versions"
FOLDER = ROOT / ".clients"
BUILT_FOR_CUDA = ("torchaudio/lib",)
"""Compiled parts that do not load beside torch's CPU build, and whose packages do without them."""
NAMES = ("trl", "llamafactory", "swift", "lmms-eval")


def environment(name: str) -> Path:
    """The folder of a client's environment, made anew unless it is there at the versions of its file.

    Raises subprocess.CalledProcessError when something cannot be installed.
    """
    wanted = VERSIONS / f"{name}.txt"
    folder = FOLDER / name
    installed = folder / "versions.txt"  # written last
    if installed.is_file() and installed.read_bytes() == wanted.read_bytes():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = next(line for line in wanted.read_text().splitlines() if line.startswith("torch=="))
    # torch comes first and pinned: left to the resolver it may bring a build of several gigabytes.
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, "--no-deps", "-r", wanted], check=True)
    for part in BUILT_FOR_CUDA:
        for path in folder.glob(f"lib/python3*/site-packages/{part}"):
            shutil.rmtree(path)
    shutil.copyfile(wanted, installed)
    return folder


def versions(name: str) -> dict[str, str]:
    """Package by package what the version file says."""
    lines = (VERSIONS / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def variables(folder: Path, **more: str) -> dict[str, str]:
    """The environment variables of a client's process: its own programs first, no hub, no GPU, two threads."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "HF_"))}
    return (
        own
        | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "hf"),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "2",
            "CUDA_VISIBLE_DEVICES": "",
        }
        | more
    )


if __name__ == "__main__":
    for each in sys.argv[1:] or NAMES:
        print(f"{each}: {environment(each).relative_to(ROOT)}", flush=True)
