"""The documents: docs/reproduce.md is run as written, on small stand-ins; the commands that others name exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from safetensors import safe_open

from icons.cli import app
from icons.data.vicuna import CHAT_TEMPLATE
from icons.demo.drawing import draw_vqa_set
from tests.clients.table import PAGE as CLIENTS_PAGE
from tests.clients.table import RESULTS as CLIENTS_RESULTS
from tests.clients.table import written
from tests.conftest import ROOT
from tests.models.test_published_parts import parts as parts  # the fixture: Vicuna, CLIP and the projector, tiny
from tests.warm import icons_for_the_shell, ran

REPRODUCE = ROOT / "docs" / "reproduce.md"
RUN = "runs/llava-665k"
ROWS = 40
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

# Blocks of docs/reproduce.md that are not run here begin with one of these lines; so often each.
LEFT_OUT = {
    "# needs the network": 1,
    "# needs Slurm": 1,
    "# needs several GPUs": 1,
    "# needs LLaVA's code": 1,
    "# needs TRL": 1,
    "# needs LLaMA-Factory": 1,
    "# needs ms-swift": 1,
    "# needs lmms-eval": 1,
}


def sh_blocks(path: Path) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def ours() -> list[str]:
    return [block for block in sh_blocks(REPRODUCE) if block.splitlines()[0] not in LEFT_OUT]


def test_no_other_block_is_left_out() -> None:
    blocks = Counter(block.splitlines()[0] for block in sh_blocks(REPRODUCE))
    assert {line: count for line, count in blocks.items() if line.startswith("# needs")} == LEFT_OUT


def reduced(path: Path) -> dict[str, Any]:
    """A published config with small sizes in the places of its large ones; names and paths are its own."""
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    raw["model"] |= {"device": "cpu", "lora": {"r": 2, "alpha": 4}}
    raw["train"]["num_chunks"] = 2
    raw["warmup"] |= {"fraction": 0.2, "max_steps": 1, "batch_size": 2, "save_steps": 1}
    raw["gradients"] |= {"checkpoints": [1], "dim": 64}
    return raw


def stand_ins(root: Path, parts: Path) -> None:
    """The downloads of docs/reproduce.md under their names, and the repository's files that its commands use."""
    (root / "configs").mkdir()
    config = reduced(ROOT / "configs" / "llava_665k.yaml")
    (root / "configs" / "llava_665k.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    downloads = root / "work" / "downloads"
    shutil.copytree(parts / "vicuna", downloads / "vicuna-7b-v1.5")
    shutil.copytree(parts / "clip", downloads / "clip-vit-large-patch14-336")
    projector = downloads / "llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"
    projector.mkdir()
    shutil.copy(parts / "mm_projector.bin", projector)
    drawn = draw_vqa_set(root / "drawn", train_records=ROWS, val_records=2)
    shutil.copytree(drawn.images / "train", root / "work" / "data" / "images" / "coco" / "train2017")
    records = json.loads(drawn.train.read_text().replace('"train/', '"coco/train2017/'))
    for number, record in enumerate(records[::2]):
        record["id"] = number  # LLaVA-665K has whole numbers among its ids
    (root / "work" / "data" / "llava_v1_5_mix665k.json").write_text(json.dumps(records))
    published = downloads / "LLAVA-ICONS-133K"
    published.mkdir()
    (published / "published.json").write_text(json.dumps(records[: ROWS // 5]))
    shutil.copytree(drawn.images / "tasks", root / "work" / "val" / "images" / "tasks")
    files = sorted(drawn.tasks.values())
    for number, task in enumerate(config["tasks"]):
        if task["name"] != "gqa":  # the document makes this one
            target = root / "work" / task["data"]
            target.parent.mkdir(exist_ok=True)
            shutil.copy(files[number % len(files)], target)
    raw = root / "work" / "val" / "raw"
    raw.mkdir()
    lines = [
        {"id": record["id"], "image": record["image"], "question": "What is it?", "answer": "A cat"}
        for record in json.loads(files[0].read_text())
    ]
    (raw / "gqa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, parts: Path) -> tuple[Path, str]:
    """A folder where every block of ours was run in order, and what that printed."""
    root = tmp_path_factory.mktemp("repository")
    stand_ins(root, parts)
    script = "set -euo pipefail\n" + "\n".join(f"echo '### block {n}'\n{text}" for n, text in enumerate(ours()))
    with icons_for_the_shell() as programs:
        environment = {
            **os.environ,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(
            ["bash", "-c", script], cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return root, done.stdout


def test_the_document_selects_a_fifth(followed: tuple[Path, str]) -> None:
    root, _ = followed
    folder = root / RUN / "selection" / "vote-20"
    indices = json.loads((folder / "selected_indices.json").read_text())["indices"]
    records = json.loads((root / "work" / "data" / "llava_v1_5_mix665k.json").read_text())
    assert len(indices) == ROWS // 5
    assert json.loads((folder / "selected_data.json").read_text()) == [records[index] for index in indices]
    smaller = json.loads((root / RUN / "selection" / "vote-10" / "selected_indices.json").read_text())
    assert len(smaller["indices"]) == ROWS // 10


def test_the_document_trains_and_merges_three_models(followed: tuple[Path, str]) -> None:
    root, _ = followed
    names = {"vote-20", f"random-{ROWS // 5}-seed0", "everything"}
    assert {folder.name for folder in (root / RUN / "finetune").iterdir()} == names
    for name in names:
        merged = root / RUN / "finetune" / name / "merged"
        with safe_open(merged / "model.safetensors", framework="np") as file:
            assert not [tensor for tensor in file.keys() if "lora" in tensor]  # noqa: SIM118
        assert (merged / "chat_template.jinja").read_text() == CHAT_TEMPLATE  # lmms-eval stops without one


def test_the_document_makes_a_task_file_and_ids_of_one_type(followed: tuple[Path, str]) -> None:
    root, _ = followed
    task = json.loads((root / "work" / "val" / "gqa.json").read_text())
    assert task[0]["conversations"] == [
        {"from": "human", "value": "<image>\nWhat is it?\nAnswer the question using a single word or phrase."},
        {"from": "gpt", "value": "A cat"},
    ]
    chosen = json.loads((root / RUN / "selection" / "vote-20" / "selected_data.json").read_text())
    written = json.loads((root / RUN / "export" / "llama-factory" / "data.json").read_text())
    assert [record["id"] for record in written] == [str(record["id"]) for record in chosen]
    assert {record["conversations"][0]["value"][:9] for record in written if record["images"]} == {"<image> \n"}


def test_the_document_ends_with_everything_done(followed: tuple[Path, str]) -> None:
    _, out = followed
    for words in ("specialist: 40 rows x 10 tasks", "generalist vote-20: 8 of 40 selected"):
        assert words in out


def test_the_tables_of_costs_are_those_of_the_program() -> None:
    lines = [
        line
        for line in ran(ROOT / "benchmarks" / "costs.py").splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    written = REPRODUCE.read_text()
    assert len(lines) > 10
    written += (ROOT / "docs" / "gradients.md").read_text()
    assert [line for line in lines if line not in written] == []


def test_the_tables_of_clients_are_those_of_the_last_run() -> None:
    page = CLIENTS_PAGE.read_text()
    assert page == written(page, json.loads(CLIENTS_RESULTS.read_text()))


def icons_commands() -> list[tuple[str, str]]:
    """(document, command line) of every `icons ...` in code, in blocks and within lines."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text().replace("\\\n", " ")
        blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        within = re.findall(r"`((?:accelerate launch|torchrun|python)?[^`\n]*?\bicons [a-z][^`\n]*)`", text)
        for line in [*(line for block in blocks for line in block.splitlines()), *within]:
            match = re.match(r"\s*(?:accelerate launch .*-m )?(icons [a-z].*)", line)
            if match:
                found.append((path.name, match[1].split(" #")[0].strip()))
    return found


@pytest.mark.parametrize(("document", "line"), icons_commands())
def test_commands_and_options_exist(document: str, line: str) -> None:
    words = shlex.split(line)
    command = COMMANDS.get(words[1])
    assert command is not None, f"{document}: {line}"
    options = {name for parameter in command.params for name in parameter.opts}
    assert [word for word in words if word.startswith("--") and word.partition("=")[0] not in options] == []


def test_the_table_of_commands_is_complete() -> None:
    rows = re.findall(r"^\| `([a-z-]+)([^`]*)` \|", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    listed = {name: set(re.findall(r"--[a-z-]+", options)) for name, options in rows if name in COMMANDS}
    assert {name for name, command in COMMANDS.items() if not command.hidden} == set(listed)
    for name, options in listed.items():
        assert options <= {option for parameter in COMMANDS[name].params for option in parameter.opts}, name


def test_the_scripts_that_documents_name_exist() -> None:
    text = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    named = set(re.findall(r"\bs?ba(?:sh|tch) (?:\./)?(scripts/\w+\.sh)", text))
    assert len(named) >= 6
    assert {name for name in named if not (ROOT / name).is_file()} == set()
