"""ms-swift: the page's command trains, and what it trains on is what icons has; its own template is told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.clients import material
from tests.clients.conftest import as_facts
from tests.clients.page import changed, command
from tests.clients.reading import Row, compare, of_program
from tests.clients.running import Client, trained

SMALL = {
    "--lora_rank": "2", "--lora_alpha": "4", "--per_device_train_batch_size": "2", "--torch_dtype": "float32",
    "--max_steps": "2", "--logging_steps": "1", "--report_to": "none", "--check_model": "false",
}  # fmt: skip


def test_swift(client: Callable[[str], Client], ours: list[Row], found: dict[str, Any]) -> None:
    swift = client("swift")
    model = swift.root / material.MODEL
    variables, words = command("# needs ms-swift")
    words = changed(words, SMALL | {"--output_dir": str(swift.scratch / "out")})
    swift.run(words, **variables)
    steps, losses = trained(swift.scratch / "out")
    assert words[:2] == ["swift", "sft"]
    words = ["swift", *changed(words[2:], {"--dataset_shuffle": "false"})]  # rows in the order of the file
    page = compare(of_program(swift.probe("trainer", words, **variables)), ours, model)
    own = changed(words, {"--external_plugins": None, "--template": None})
    alone = compare(of_program(swift.probe("trainer", own, **variables)), ours, model)
    jinja = changed(own, {"--template_backend": "jinja"})
    templated = compare(of_program(swift.probe("trainer", jinja, **variables)), ours, model)

    found["swift"] = {
        "packages": ("ms_swift", "transformers", "torch", "peft", "datasets"),
        "steps": steps,
        "losses": losses,
        "read": {
            "llava_v1, of the page": as_facts(page),
            "llava1_5_hf": as_facts(alone),
            "the model's, `--template_backend jinja`": as_facts(templated),
        },
    }
    assert steps == 2
    assert page.rows == page.images == page.ids == page.labels == len(ours)
    assert page.pixels_most == 0  # no torchvision: both resize with Pillow
    assert alone.rows == alone.images == alone.predicted == len(ours)
    assert alone.ids == 0
    assert templated.predicted == 0
