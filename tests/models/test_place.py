"""Where a model is read to, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from icons.config import LoraConfig, ModelConfig
from icons.models import loading, place
from icons.models.adapters import attach_adapter, attach_fresh_lora
from icons.models.loading import load_base
from tests.conftest import Project


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_a_cpu_that_nobody_asked_for_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    place._say_no_gpu.cache_clear()
    assert place.pick_device("cpu") == torch.device("cpu")
    assert capsys.readouterr().err == ""
    assert [place.pick_device("auto"), place.pick_device("auto")] == [torch.device("cpu")] * 2
    said = capsys.readouterr().err
    assert said.startswith("NO GPU: ")
    assert said.count("\n") == 1


def test_weights_go_straight_to_the_device(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without memory: nothing of it ever lay elsewhere."""
    monkeypatch.setattr(loading, "take_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(loading, "with_right_head", lambda model: model)  # compares numbers, of which there are none
    model = load_base(ModelConfig(base=str(tiny_model), device="cpu"))
    assert {tensor.device.type for tensor in [*model.base.parameters(), *model.base.buffers()]} == {"meta"}


def test_an_adapter_goes_to_the_models_device(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT left to itself takes the first GPU."""
    config = ModelConfig(base=str(tiny_model), dtype="float32", device="cpu", lora=LoraConfig(r=4, alpha=8))
    attach_fresh_lora(load_base(config), config.lora).peft.save_pretrained(tmp_path)

    def guess() -> str:
        raise AssertionError("PEFT chose the device")

    monkeypatch.setattr("peft.peft_model.infer_device", guess)
    assert attach_adapter(load_base(config), tmp_path).lora_pairs()


def test_products_of_bfloat16_are_summed_in_float32() -> None:
    place.take_device("cpu")
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


def test_a_stage_begins_with_where_and_how_it_computes(copy_of_finished: Project) -> None:
    copy_of_finished.raw["tasks"] = copy_of_finished.raw["tasks"][:1]
    copy_of_finished.raw["output_dir"] = "again"
    copy_of_finished.raw["model"]["adapter"] = "run/warmup/final"
    copy_of_finished.save()
    outcome = copy_of_finished.icons("val-grads")
    assert outcome.code == 0, outcome.err
    first = outcome.out.splitlines()[0]
    assert first == "val-grads final: on cpu, float32, 19,520 LoRA parameters, 2,048 tokens a batch, 0 image processes"
