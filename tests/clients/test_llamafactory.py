"""LLaMA-Factory: the page's command trains, and what it trains on is what icons has; its own template is told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clients import material
from tests.clients.conftest import as_facts
from tests.clients.page import changed, command
from tests.clients.reading import Row, compare, of_program
from tests.clients.running import Client, trained

SMALL = {
    "--lora_rank": "2", "--lora_alpha": "4", "--per_device_train_batch_size": "2", "--bf16": "false",
    "--use_cpu": "true", "--max_steps": "2", "--logging_steps": "1", "--report_to": "none",
}  # fmt: skip


def test_llamafactory(client: Callable[[str], Client], ours: list[Row], found: dict[str, Any]) -> None:
    program = client("llamafactory")
    model = program.root / material.MODEL
    variables, words = command("# needs LLaMA-Factory")
    words = changed(words, SMALL | {"--output_dir": str(program.scratch / "out")})
    program.run(words, **variables)
    steps, losses = trained(program.scratch / "out")
    assert words[:2] == ["llamafactory-cli", "train"]
    words = ["llamafactory", *words[2:]]
    page = compare(of_program(program.probe("trainer", words, **variables)), ours, model)

    plain = program.scratch / "plain"
    material.run("export", program.root / material.CONFIG, plain, "--format", "sharegpt")
    own = {"--default_system": None, "--image_max_pixels": None, "--dataset_dir": str(plain)}
    alone = compare(of_program(program.probe("trainer", changed(words, own), **variables)), ours, model)

    found["llamafactory"] = {
        "packages": ("llamafactory", "transformers", "torch", "peft", "datasets"),
        "steps": steps,
        "losses": losses,
        "read": {"llava, as the page sets it": as_facts(page), "llava alone": as_facts(alone)},
    }
    assert steps == 2
    assert page.rows == page.images == page.ids == page.labels == len(ours)
    assert page.pixels_most == 0  # no torchvision: both resize with Pillow
    assert alone.rows == alone.images == alone.predicted == len(ours)
    assert {ours for _, ours, _ in alone.differences} == {"<s>", "▁"}
    assert 0 < alone.pixels_mean < 0.02  # the picture of 1024 x 768, shrunk twice
