"""Models larger than a GPU, through the command line: quantised weights, one model over several GPUs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from icons.config import ModelConfig
from icons.gradients.quantized import dense_weight, is_quantized
from icons.models import quantization
from icons.models.loading import load_base
from tests.conftest import Project

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
FOUR = ("--set", "model.quantization=4bit")
AUTO = ("--set", "model.device_map=auto", "--set", "model.device=auto")


def of_language(names: Iterable[str], layer: str) -> str:
    """The name in a LLaVA's file of a layer's weight; in files the language model has another path than in memory."""
    end = layer.removeprefix("model.language_model.")
    (found,) = (name for name in names if "language_model" in name and name.endswith(f".{end}.weight"))
    return found


def what_they_stand_for(base: Path, bits: str, folder: Path) -> None:
    """A folder of plain weights: those that the quantised ones of `base` stand for."""
    shutil.copytree(base, folder)
    model = load_base(ModelConfig(base=str(base), dtype="float32", device="cpu", quantization=bits)).base
    tensors = load_file(folder / "model.safetensors")
    stored = {name: weight.shape for name, weight in tensors.items()}
    for name, layer in model.named_modules():
        if is_quantized(layer):
            tensors[of_language(tensors, name)] = dense_weight(layer, torch.float32).contiguous()
    assert {name: weight.shape for name, weight in tensors.items()} == stored
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def beside(project: Project, name: str, **model: object) -> Project:
    """The same with other settings of the model, in a folder of its own."""
    raw = yaml.safe_load(yaml.safe_dump(project.raw))
    raw["model"] |= model
    other = Project(project.root / name, raw)
    other.root.mkdir()
    for section in (raw["train"], *raw["tasks"]):
        section |= {key: str(project.root / section[key]) for key in ("data", "images")}
    other.save()
    return other


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_all_stages_use_the_weights_that_the_quantised_ones_stand_for(
    bits: str, project: Project, tiny_model: Path, tmp_path: Path
) -> None:
    project.raw["tasks"] = project.raw["tasks"][:1]
    task = project.raw["tasks"][0]["name"]
    what_they_stand_for(tiny_model, bits, tmp_path / "plain")
    both = beside(project, "a", quantization=bits), beside(project, "b", base=str(tmp_path / "plain"))
    found = []
    for each in both:
        commands = [("warmup",), ("val-grads",), ("evaluate", "--of", "base", "--json")]
        outcomes = [each.icons(*command) for command in commands]
        assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes[0].err
        adapter = load_file(each.root / "run/warmup/final/adapter_model.safetensors")
        (shard,) = (each.root / "run/val_grads/final" / task).glob("shard-*")
        found.append((adapter, load_file(shard), json.loads(outcomes[-1].out)))
    (adapter, rows, answers), (plain_adapter, plain_rows, plain_answers) = found
    for name, tensor in adapter.items():
        torch.testing.assert_close(tensor, plain_adapter[name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(rows["norms"], plain_rows["norms"], rtol=1e-3, atol=0)
    cosines = torch.nn.functional.cosine_similarity(rows["grads"].float(), plain_rows["grads"].float())
    assert (cosines > 0.999).all()
    assert answers[0]["loss"]["mean"] == pytest.approx(plain_answers[0]["loss"]["mean"], rel=1e-5)


def test_rows_beside_other_weights_are_other_rows(copy_of_finished: Project) -> None:
    """Existing runs have no such field, and stay as they are."""
    assert copy_of_finished.icons("status").out.count("stale") == 0
    said = copy_of_finished.icons("status", *FOUR).out
    assert "model.quantization is None there, '4bit' in the config" in said
    refused = copy_of_finished.icons("generalist", *FOUR)
    assert refused.code == 2
    assert "model.quantization is None there, '4bit' in the config" in refused.err
    rows = copy_of_finished.icons("val-grads", *FOUR)
    assert rows.code == 2
    assert "quantization is None, expected '4bit'" in rows.err


@needs_bitsandbytes
def test_a_merge_is_into_the_plain_weights(project: Project, tiny_model: Path) -> None:
    options = ("--set", "finetune.max_steps=1", "--set", "finetune.projector_learning_rate=null")
    outcome = project.icons("finetune", "--everything", "--merge", *FOUR, *options)
    assert outcome.code == 0, outcome.err
    assert "merged into the plain weights of model.base, not those in 4bit that it was trained beside" in outcome.out
    folder = project.run / "finetune" / "everything"
    adapter, name = load_file(folder / "final/adapter_model.safetensors"), "layers.0.self_attn.q_proj"
    a, b = (next(t for k, t in adapter.items() if k.endswith(f"{name}.lora_{which}.weight")) for which in "AB")
    files = (load_file(path / "model.safetensors") for path in (folder / "merged", tiny_model))
    merged, plain = (tensors[of_language(tensors, name)] for tensors in files)
    torch.testing.assert_close(merged, plain + 2 * b @ a)
    assert "quantization_config" not in (folder / "merged" / "config.json").read_text()


@needs_bitsandbytes
def test_the_plan_says_what_the_weights_take(project: Project) -> None:
    plain, small = project.icons("run", "--dry-run"), project.icons("run", "--dry-run", *FOUR)
    assert "float32, weights of 5 MB, 19,520 LoRA parameters" in plain.out
    assert "float32, weights of 3 MB in 4bit, 19,520 LoRA parameters" in small.out


def test_without_bitsandbytes_a_line_says_what_to_install(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for command in (["run"], ["run", "--dry-run"], ["warmup"]):
        outcome = project.icons(*command, *FOUR)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert "bitsandbytes, which is not installed; pip install 'icons[quant]'" in outcome.err
    outcome = project.icons("validate", *FOUR)
    assert outcome.code == 2
    assert "pip install 'icons[quant]'" in outcome.out


def test_a_folder_of_quantised_weights_is_refused(project: Project, tiny_model: Path) -> None:
    folder = project.root / "quantised"
    shutil.copytree(tiny_model, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(settings))
    outcome = project.icons("run", "--set", f"model.base={folder}")
    assert outcome.code == 2
    assert "holds weights that are quantised already (awq), which are not read" in outcome.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "model.device_map=auto"), "device_map: auto takes all visible GPUs, and device names cpu"),
        ((*AUTO, "--set", "gradients.workers=2"), "gradients.workers: 2 processes cannot each have all GPUs"),
        (("--set", "model.device_map=balanced"), "model.device_map"),
        (("--set", "model.quantization=nf4"), "model.quantization"),
    ],
)
def test_what_cannot_be_right_is_refused_at_the_door(options: tuple[str, ...], said: str, project: Project) -> None:
    outcome = project.icons("run", *options)
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_a_map_of_gpus_needs_gpus_and_is_not_for_training(copy_of_finished: Project) -> None:
    for command in ("warmup", "run"):
        outcome = copy_of_finished.icons(command, *AUTO, "--set", "output_dir=new")
        assert outcome.code == 2
        assert "model.device_map: auto is for gradients and answers, not for training" in outcome.err
    outcome = copy_of_finished.icons("val-grads", *AUTO, "--set", "gradients.dim=64", "--set", "output_dir=again",
                                     "--set", "model.adapter=run/warmup/final")  # fmt: skip
    assert outcome.code == 2
    assert "model.device_map: auto spreads a model over GPUs, and torch sees none" in outcome.err
    assert copy_of_finished.icons("warmup", *AUTO).code == 0  # done: nothing is loaded
