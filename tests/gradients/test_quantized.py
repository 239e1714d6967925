"""A base in 8 or 4 bits: per-sample gradients against plain autograd on Hugging Face's own quantised PEFT model."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icons.config import LoraConfig, ModelConfig
from icons.data.batches import Batch, make_batch
from icons.data.samples import DataSource, Sample
from icons.data.sets import open_records
from icons.gradients.per_sample import backpropagate
from icons.gradients.projection import make_projector
from icons.gradients.quantized import dense_weight, is_quantized
from icons.gradients.rows import projected_rows
from icons.gradients.types import sgd
from icons.models.adapters import attach_adapter, attach_fresh_lora
from icons.models.loading import load_base
from icons.models.vlm import VisionLanguageModel
from tests.reference.gradients import randomise_lora, sequential_gradients

pytest.importorskip("bitsandbytes")
both = pytest.mark.parametrize("bits", ["8bit", "4bit"], indirect=True)


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that has learned something, in a PEFT folder."""
    config = ModelConfig(base=str(tiny_model), dtype="float32", device="cpu", lora=LoraConfig(r=4, alpha=8, dropout=0))
    model = attach_fresh_lora(load_base(config), config.lora)
    randomise_lora(model.peft)
    folder = tmp_path_factory.mktemp("adapter")
    model.peft.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bits(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(bits: str, tiny_model: Path, folder: Path) -> VisionLanguageModel:
    config = ModelConfig(base=str(tiny_model), dtype="float32", device="cpu", quantization=bits)
    return attach_adapter(load_base(config), folder)


@pytest.fixture(scope="module")
def theirs(bits: str, tiny_model: Path, folder: Path, model: VisionLanguageModel) -> VisionLanguageModel:
    """The same by transformers and PEFT alone. In training bitsandbytes leaves the inputs of 8 bits as they are."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    settings: dict[str, Any] = {"load_in_8bit": True, "llm_int8_threshold": 0.0}
    if bits == "4bit":
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        settings |= {"bnb_4bit_compute_dtype": torch.float32}
    skipped = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
    config = BitsAndBytesConfig(**settings, llm_int8_skip_modules=skipped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForImageTextToText.from_pretrained(
            tiny_model, dtype=torch.float32, device_map={"": "cpu"}, quantization_config=config
        )
        peft = PeftModel.from_pretrained(base, folder, torch_device="cpu")
    peft.requires_grad_(False).train()
    return replace(model, peft=peft, base=base)


@pytest.fixture(scope="module")
def source(model: VisionLanguageModel, drawn: Path) -> DataSource:
    return DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), model.inputs)


@pytest.fixture(scope="module")
def samples(source: DataSource) -> list[Sample]:
    samples, _ = source.samples(range(len(source.records)))
    return [s for s in samples if not s.images][:3] + [s for s in samples if s.images][:5]


def batch_of(source: DataSource, samples: list[Sample]) -> Batch:
    batch, _ = make_batch(samples, source.inputs)
    assert batch is not None
    return batch


@both
def test_each_sample_has_its_own_gradient_beside_quantised_weights(
    model: VisionLanguageModel, theirs: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    found: dict[str, Tensor] = {}
    losses = backpropagate(model.forward_pass(model.lora_pairs(), batch_of(source, samples)), found.__setitem__)
    expected, expected_losses = sequential_gradients(theirs, source, samples)
    assert found.keys() == expected[0].keys()
    torch.testing.assert_close(losses.mean_B, torch.tensor(expected_losses), rtol=1e-5, atol=1e-5)
    for index, sample in enumerate(samples):
        ours = torch.cat([found[name][index] for name in found])
        oracle = torch.cat([expected[index][name].flatten() for name in found])
        print((ours - oracle).norm() / oracle.norm())
        assert (ours - oracle).norm() / oracle.norm() < 1e-5, f"row {sample.row}"
