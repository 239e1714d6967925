"""lmms-eval: the page's command evaluates a merged model, and what that is asked is what icons asks it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.clients import material
from tests.clients.conftest import as_facts
from tests.clients.page import block
from tests.clients.reading import IGNORE, Row, compare, of_program
from tests.clients.running import Client

TASK = Path(__file__).parent / "task"


def reduced(script: str, out: Path) -> str:
    """The page's loop over one model, in one process on the CPU, with the local task."""
    for pattern, small in (
        (r"for name in .*; do", f"for name in {material.SELECTION.name}; do"),
        (r"--num_processes 8", "--num_processes 1 --cpu"),
        (r"(--model_args \S+)", r"\1,device=cpu,device_map=cpu"),
        (r"--tasks \S+", f"--tasks icons_selection --include_path {TASK}"),
        (r"--output_path \S+", f"--output_path {out}"),
    ):
        script, count = re.subn(pattern, small, script)
        assert count == 1, f"the page's command has no {pattern}"
    return script


def asked(row: Row) -> Row:
    """What comes before the first answer."""
    first = next(at for at, label in enumerate(row.labels) if label != IGNORE)
    return Row(row.ids[:first], [], row.pixels)


def test_lmms_eval(client: Callable[[str], Client], ours: list[Row], found: dict[str, Any]) -> None:
    program = client("lmms-eval")
    wanted = [asked(row) for row in ours if row.pixels is not None]
    script = reduced(block("# needs lmms-eval"), program.scratch / "out")
    printed = program.run(["bash", "-c", f"set -euo pipefail\n{script}"])
    assert "in generating" not in printed  # it goes on after an error, with an empty answer
    (samples,) = (program.scratch / "out").rglob("*_samples_*.jsonl")
    answers = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(answers) == len(wanted)

    reads = {}
    for name, model in (("the model's, less its beginning", None), ("the model's", material.MERGED)):
        folder = str(model or material.RUN / "eval" / material.SELECTION.name / "model")
        options = {"--model": "llava_hf", "--tasks": "icons_selection", "--include_path": str(TASK)}
        options |= {"--model_args": f"pretrained={folder},device=cpu,device_map=cpu", "--batch_size": "1"}
        written = program.probe("evaluation", [word for option in options.items() for word in option])
        theirs = [Row(row.ids, [], row.pixels) for row in of_program(written)]
        reads[name] = compare(theirs, wanted, program.root / material.MODEL)
    found["lmms-eval"] = {
        "packages": ("lmms_eval", "transformers", "torch", "datasets"),
        "read": {name: as_facts(read) for name, read in reads.items()},
    }
    page, alone = reads.values()
    assert page.rows == page.images == page.ids == len(wanted)
    assert page.pixels_most == 0  # no torchvision: both resize with Pillow
    assert alone.images == len(wanted)
    assert set(alone.differences) == {("", "", "<s>")}
