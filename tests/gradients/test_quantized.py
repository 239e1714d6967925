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
from icons.gradients.causal_lm import projected
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
        assert (ours - oracle).norm() / oracle.norm() < 1e-5, f"row {sample.row}"


@both
def test_a_row_is_the_same_alone_and_in_a_batch(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    """bitsandbytes' own product of 8 bits looks for outliers in the whole batch; this one does not."""

    def rows_of(chosen: list[Sample]) -> Tensor:
        forward = model.forward_pass(model.lora_pairs(), batch_of(source, chosen))
        return projected_rows(forward, make_projector("count_sketch", 256, 0), sgd).values_BD

    together = rows_of(samples)
    for index in (0, 4):
        torch.testing.assert_close(rows_of([samples[index]])[0], together[index], rtol=0, atol=1e-6)


@both
def test_weights_are_as_near_as_their_bits_allow(bits: str, model: VisionLanguageModel, tiny_model: Path) -> None:
    plain = load_base(ModelConfig(base=str(tiny_model), dtype="float32", device="cpu")).base
    for name, layer in plain.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        theirs = model.base.get_submodule(name)
        theirs = getattr(theirs, "base_layer", theirs)
        assert is_quantized(theirs) == (".language_model.layers." in f".{name}"), name
        weight, dense = layer.weight, dense_weight(theirs, torch.float32)
        if not is_quantized(theirs):
            assert torch.equal(weight, dense)
        elif bits == "8bit":  # half of one of 127 steps up to a row's largest number, and float16's rounding before
            assert ((weight - dense).abs() <= 0.57 / 127 * weight.abs().amax(1, keepdim=True)).all()
        else:  # half of NormalFloat's widest gap, of a block of 64, and the rounding of the blocks' scales
            blocks = weight.reshape(-1, 64)
            error = (weight - dense).reshape(-1, 64).abs()
            assert (error <= 0.17 * blocks.abs().amax(1, keepdim=True)).all()
            assert not torch.equal(weight, dense)


@both
def test_layers_without_lora_multiply_by_the_same_weights(
    bits: str, tiny_model: Path, source: DataSource, samples: list[Sample]
) -> None:
    """Forward and backward of a base whose layers are quantised, against plain layers of those weights."""
    model = load_base(ModelConfig(base=str(tiny_model), dtype="float32", device="cpu", quantization=bits))
    plain = load_base(ModelConfig(base=str(tiny_model), dtype="float32", device="cpu"))
    for name, layer in model.base.named_modules():
        if is_quantized(layer):
            plain.base.get_submodule(name).weight.data = dense_weight(layer, torch.float32)
    gradients = []
    for each in (model, plain):
        weight = each.base.get_input_embeddings().weight.requires_grad_()
        logits = each.head(each.base.base_model(input_ids=torch.tensor([[5, 9, 7, 3]])).last_hidden_state)
        gradients.append(torch.autograd.grad(logits.square().sum(), weight)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@both
def test_a_model_that_others_have_quantised_is_refused(theirs: VisionLanguageModel) -> None:
    """Its layers without LoRA would multiply in bitsandbytes' own way."""
    batch = {name: torch.ones(1, 4, dtype=torch.long) for name in ("input_ids", "labels")}
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj.*: weights in 8 or 4 bits"):
        projected(theirs.peft, batch, dim=64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@both
def test_gpu_equals_cpu(
    bits: str,
    tiny_model: Path,
    folder: Path,
    model: VisionLanguageModel,
    source: DataSource,
    samples: list[Sample],
) -> None:
    config = ModelConfig(base=str(tiny_model), dtype="float32", device="cuda", quantization=bits)
    there, batch = attach_adapter(load_base(config), folder), batch_of(source, samples)
    found, expected = (
        projected_rows(each.forward_pass(each.lora_pairs(), batch), make_projector("count_sketch", 256, 0), sgd)
        for each in (there, model)
    )
    torch.testing.assert_close(found.values_BD.cpu(), expected.values_BD, rtol=1e-3, atol=1e-3)
