"""A contestant's process: it loads once, then makes all rows whenever it is told to, and says what that took.

It runs in an environment of its own, so nothing of icons is imported here. Standard output belongs to the answers, one
JSON object a line; what a contestant's packages print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

IGNORE = -100
Rows = Callable[[], np.ndarray]
"""Makes the rows [N, d] float32 of all samples, in the order of the file."""


def serve(load: Callable[[Path, dict[str, Any]], Rows], packages: list[str]) -> None:
    """`load` gets the folder of model, adapter and samples, and the race's options; answers until the input ends.

    A round takes the process's CPU seconds, all threads, and those on the clock. Peak bytes are the resident ones of
    all rounds above what the process held when everything was loaded and no row was made.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(options["threads"])

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    rows = load(folder, options)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak, which loading may have reached
    loaded = _resident("VmRSS")
    answer(versions={name: _version(name) for name in packages})
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        made = rows()
        facts = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        if line.strip() != "round":
            np.save(line.strip(), made)
        answer(**facts, shape=list(made.shape), peak_bytes=_resident("VmHWM") - loaded)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def samples(folder: Path) -> list[dict[str, list[int]]]:
    """`input_ids` and `labels` of each sample, of the same positions, IGNORE where nothing is to be predicted."""
    tokenised: list[dict[str, list[int]]] = json.loads((folder / "samples.json").read_text())
    return tokenised


def adapted(folder: Path) -> Any:
    """The PEFT model in float32, its LoRA weights asking for gradients and nothing else; every weight has been read."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "adapter", autocast_adapter_dtype=False).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return touched(model)


def touched(model: Any) -> Any:
    """Reads every weight, so that pages of a mapped file are resident before a round."""
    for parameter in model.parameters():
        parameter.detach().sum()
    return model


def padded(chosen: list[dict[str, list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and labels [B, T], padded on the right."""
    length = max(len(sample["input_ids"]) for sample in chosen)
    ids, labels = torch.zeros(len(chosen), length, dtype=torch.long), torch.full((len(chosen), length), IGNORE)
    for index, sample in enumerate(chosen):
        ids[index, : len(sample["input_ids"])] = torch.tensor(sample["input_ids"])
        labels[index, : len(sample["labels"])] = torch.tensor(sample["labels"])
    return ids, labels


def sum_of_means(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over samples of each sample's mean token loss: its gradients are those of the samples, unscaled."""
    targets = labels[:, 1:]
    each = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORE)
    return (each.view_as(targets).sum(1) / (targets != IGNORE).sum(1)).sum()
