"""TRL: the page's command trains, and what it trains on is what icons has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clients import material
from tests.clients.conftest import as_facts
from tests.clients.page import changed, command
from tests.clients.reading import Row, compare, of_program
from tests.clients.running import Client, trained

SMALL = {
    "--lora_r": "2", "--lora_alpha": "4", "--per_device_train_batch_size": "2", "--bf16": "false", "--use_cpu": "true",
    "--max_steps": "2", "--logging_steps": "1", "--report_to": "none",
}  # fmt: skip


def test_trl(client: Callable[[str], Client], ours: list[Row], found: dict[str, Any]) -> None:
    trl = client("trl")
    variables, words = command("# needs TRL")
    words = changed(words, SMALL | {"--output_dir": str(trl.scratch / "out")})
    trl.run(words, **variables)
    steps, losses = trained(trl.scratch / "out")
    assert words[:2] == ["trl", "sft"]
    theirs = of_program(trl.probe("trainer", ["trl", *words[2:]], **variables))
    read = compare(theirs, ours, trl.root / material.MODEL)
    packages = ("trl", "transformers", "torch", "peft", "datasets")
    found["trl"] = {"packages": packages, "steps": steps, "losses": losses, "read": {"the model's": as_facts(read)}}
    assert steps == 2
    assert read.rows == read.images == read.ids == read.labels == len(ours)
    assert read.pixels_most == 0  # no torchvision: both resize with Pillow
