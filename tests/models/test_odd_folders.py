"""Folders that others wrote, damaged in every way: one line that names the file, never a traceback, never a wait."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import Project, icons
from tests.warm import Program

Damage = Callable[[Path], object]


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


def changed(name: str, key: str, value: object) -> Damage:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content[key] = value
        (folder / name).write_text(json.dumps(content))

    return change


def dangling(name: str) -> Damage:
    def link(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("nowhere")

    return link


def pipe(name: str) -> Damage:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def index(content: str) -> Damage:
    """Of weights in several files, which transformers takes when there is no single one."""

    def write(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(content)

    return write


def odd_offsets(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    next(entry for name, entry in header.items() if name != "__metadata__")["data_offsets"] = [-5, "x"]
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + size :])


DAMAGES: dict[str, Damage] = {
    "config is no JSON": text("config.json", "{"),
    "config is a list": text("config.json", "[]"),
    "config is deep": text("config.json", "[" * 100_000),
    "config is empty": text("config.json", ""),
    "a type of model that nobody knows": changed("config.json", "model_type", "nope"),
    "a type that is a number": changed("config.json", "model_type", 3),
    "no text config": changed("config.json", "text_config", None),
    "a text config of text": changed("config.json", "text_config", "x"),
    "a vision config that is a list": changed("config.json", "vision_config", []),
    "an image token of text": changed("config.json", "image_token_index", "x"),
    "processor is no JSON": text("processor_config.json", "{"),
    "processor is a list": text("processor_config.json", "[]"),
    "a size of nothing": changed("processor_config.json", "image_processor", {"size": None, "crop_size": []}),
    "an image processor of text": changed("processor_config.json", "image_processor", "x"),
    "tokenizer config is a list": text("tokenizer_config.json", "[]"),
    "tokenizer config is no JSON": text("tokenizer_config.json", "{"),
    "a class of tokenizer that is none": changed("tokenizer_config.json", "tokenizer_class", 5),
    "tokenizer is empty": text("tokenizer.json", ""),
    "tokenizer is a list": text("tokenizer.json", "[]"),
    "tokenizer is half": lambda folder: (folder / "tokenizer.json").write_bytes(
        (folder / "tokenizer.json").read_bytes()[:3000]
    ),
    "weights are empty": text("model.safetensors", ""),
    "weights are text": text("model.safetensors", "x" * 500),
    "offsets of weights are odd": odd_offsets,
    "weights lead nowhere": dangling("model.safetensors"),
    "the tokenizer leads nowhere": dangling("tokenizer.json"),
    "the index is a list": index("[]"),
    "the index has no map": index("{}"),
    "a map of numbers": index('{"weight_map": {"a": 1}}'),
    "config is a pipe": pipe("config.json"),
    "the tokenizer is a pipe": pipe("tokenizer.json"),
    "weights are a pipe": pipe("model.safetensors"),
    "a further file is a pipe": pipe("notes.txt"),
    "a remote kernel": changed("config.json", "_attn_implementation", "somebody/attention"),
    "a remote kernel within": changed("config.json", "text_config", {"attn_implementation": "somebody/attention:x"}),
}


@pytest.fixture
def with_adapter(finished: Project, tiny_model: Path, tmp_path: Path) -> tuple[Project, Path, list[object]]:
    """The finished run, which is only read, with a model folder of one's own to damage."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    adapter = finished.run / "warmup" / "final"
    output = ["--set", f"output_dir={tmp_path / 'run'}"]
    return finished, model, ["--set", f"model.base={model}", "--set", f"model.adapter={adapter}", *output]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_odd_model_folder_is_one_line(damage: str, with_adapter: tuple[Project, Path, list[object]]) -> None:
    project, model, options = with_adapter
    DAMAGES[damage](model)
    checked = project.icons("validate", *options)
    assert checked.code == 2, checked.out
    assert "model" in checked.out
    computed = project.icons("train-grads", *options)
    assert computed.code == 2, computed.out
    assert len(computed.err.splitlines()) == 1
    assert len(computed.err) < 1000
    assert "model" in computed.err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", "[" * 50_000),
        ("adapter_config.json", "[]"),
        ("adapter_config.json", '{"peft_type": "NOPE"}'),
        ("adapter_config.json", '{"peft_type": "LORA", "r": "x"}'),
        ("adapter_model.safetensors", ""),
    ],
)
def test_an_odd_adapter_is_one_line(name: str, content: str, with_adapter: tuple[Project, Path, list[object]]) -> None:
    project, model, options = with_adapter
    adapter = model.parent / "adapter"
    shutil.copytree(project.run / "warmup" / "final", adapter)
    (adapter / name).write_text(content)
    options = [*options, "--set", f"model.adapter={adapter}"]
    checked, computed = project.icons("validate", *options), project.icons("train-grads", *options)
    assert (checked.code, computed.code) == (2, 2)
    assert str(adapter) in checked.out
    assert len(computed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (lambda name: name.replace(".weight", ".default.weight"), "lora_A.default.weight"),
        (lambda name: name.removeprefix("base_model.model."), "without PEFT's prefix"),
        (lambda name: name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"), "lora_up and lora_down"),
    ],
)
def test_older_layouts_of_adapters_are_named(
    rename: Callable[[str], str], words: str, with_adapter: tuple[Project, Path, list[object]]
) -> None:
    from safetensors.torch import load_file

    project, model, options = with_adapter
    adapter = model.parent / "adapter"
    shutil.copytree(project.run / "warmup" / "final", adapter)
    path = adapter / "adapter_model.safetensors"
    save_file({rename(name): tensor for name, tensor in load_file(path).items()}, path)
    outcome = project.icons("train-grads", *options, "--set", f"model.adapter={adapter}")
    assert outcome.code == 2
    assert words in outcome.err


def llava_adapter(folder: Path) -> Path:
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{name}.lora_A.weight": torch.zeros(4, 64), f"{name}.lora_B.weight": torch.zeros(64, 4)}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    return folder


@pytest.mark.parametrize(
    "tensors",
    [b"", {5: torch.zeros(4, 8)}, {"a": torch.zeros(4, 8).to_sparse()}, [torch.zeros(2)], {"a": 3}],
    ids=["empty", "a number as a name", "sparse", "a list", "a number"],
)
def test_odd_tensors_are_not_imported(tensors: object, tmp_path: Path) -> None:
    source = llava_adapter(tmp_path / "source")
    (source / "adapter_model.safetensors").unlink()
    if isinstance(tensors, bytes):
        (source / "adapter_model.bin").write_bytes(tensors)
    else:
        torch.save(tensors, source / "adapter_model.bin")
    outcome = icons("import-adapter", source, tmp_path / "out")
    assert outcome.code == 2
    assert "adapter_model.bin" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


KILLED = """
import os, signal, sys
import icons.atomic
real = os.open
count = 0
def opened(*arguments, **options):  # flushing the folder's files: all are there, the name is not
    global count
    count += 1
    if count == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
icons.atomic.os = type("os", (), {**vars(os), "open": staticmethod(opened)})
from icons.cli import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("command", ["import-adapter", "tiny-model"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_killed_command_is_simply_started_again(command: str, at: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [command, str(out)]
    if command == "import-adapter":
        arguments.insert(1, str(llava_adapter(tmp_path / "source")))
    killed = Program("-c", KILLED, at, *arguments)
    killed.communicate()
    assert killed.returncode == -9
    assert not out.exists()
    outcome = icons(*arguments)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "source"}
