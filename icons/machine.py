"""What a result was computed on: device and versions, written beside it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from icons import __version__
from icons.cores import cores

if TYPE_CHECKING:
    import torch

Machine = dict[str, str]
"""`device` (a GPU's name, or the processor's and its cores), and the versions of PACKAGES, of python and of icons."""
PACKAGES = ("torch", "transformers", "peft")


def this_machine(device: torch.device | None = None) -> Machine:
    """This process's; of the processor unless `device` is a GPU."""
    if device is not None and device.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {cores()} core{'s' if cores() > 1 else ''}"
    facts = {"device": name, "python": platform.python_version(), "icons": __version__}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "?"
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return (names[0] if names else platform.processor() or platform.machine()) or "unknown processor"
