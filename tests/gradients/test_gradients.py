"""Per-sample gradients of a batch against one-at-a-time autograd through Hugging Face's own forward pass."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from icons.config import LoraConfig, ModelConfig
from icons.data.batches import Batch, make_batch
from icons.data.samples import DataSource, Sample
from icons.data.sets import open_records
from icons.gradients.lora import lora_pairs
from icons.gradients.per_sample import ForwardPass, backpropagate
from icons.gradients.projection import make_projector
from icons.gradients.rows import add_unit_gradients, exact_rows, projected_rows
from icons.gradients.types import sgd
from icons.models.adapters import attach_fresh_lora
from icons.models.loading import load_base
from icons.models.vlm import VisionLanguageModel
from tests.reference.gradients import random_lora_model, randomise_lora, sequential_gradients


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> VisionLanguageModel:
    return random_lora_model(tiny_model)


@pytest.fixture(scope="module")
def source(model: VisionLanguageModel, drawn: Path) -> DataSource:
    return DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), model.inputs)


@pytest.fixture(scope="module")
def samples(source: DataSource) -> list[Sample]:
    samples, bad = source.samples(range(len(source.records)))
    assert not bad
    texts, pictures = [s for s in samples if not s.images][:4], [s for s in samples if s.images][:12]
    chosen = sorted(texts + pictures, key=lambda sample: sample.row)
    assert len({sample.length for sample in chosen}) > 4  # so that padding is exercised
    return chosen


def batch_of(source: DataSource, samples: list[Sample]) -> Batch:
    batch, bad = make_batch(samples, source.inputs)
    assert batch is not None
    assert not bad
    return batch


def forward_pass(model: VisionLanguageModel, batch: Batch) -> ForwardPass:
    return model.forward_pass(model.lora_pairs(), batch)


def batched_gradients(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> tuple[dict[str, Tensor], Tensor]:
    found: dict[str, Tensor] = {}
    losses = backpropagate(forward_pass(model, batch_of(source, samples)), found.__setitem__)
    return found, losses.mean_B


def test_a_batch_gives_each_sample_its_own_gradient(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    found, losses = batched_gradients(model, source, samples)
    expected, expected_losses = sequential_gradients(model, source, samples)
    assert found.keys() == expected[0].keys()
    torch.testing.assert_close(losses, torch.tensor(expected_losses), rtol=1e-5, atol=1e-5)
    for index, sample in enumerate(samples):
        ours = torch.cat([found[name][index] for name in found])
        oracle = torch.cat([expected[index][name].flatten() for name in found])
        assert (ours - oracle).norm() / oracle.norm() < 1e-5, f"row {sample.row}, images {sample.images}"


def test_the_last_layer_at_the_labels_alone_gives_the_same(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    batch = batch_of(source, samples)
    short = model.forward_pass(model.lora_pairs(), batch)
    assert short.labels_BT.shape[1] < batch.labels.shape[1] / 2
    whole = ForwardPass(model.lora_pairs(), lambda: model.hidden_states(batch), model.head, batch.labels)
    found: list[dict[str, Tensor]] = [{}, {}]
    losses = [backpropagate(each, into.__setitem__) for each, into in zip((short, whole), found, strict=True)]
    torch.testing.assert_close(losses[0].mean_B, losses[1].mean_B)
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def test_long_answers_take_the_whole_last_layer(model: VisionLanguageModel, source: DataSource, tmp_path: Path) -> None:
    words = " ".join(f"word{i}" for i in range(400))
    record = {"conversations": [{"from": "human", "value": "Go on."}, {"from": "gpt", "value": words}]}
    (tmp_path / "long.json").write_text(json.dumps([record]))
    long = DataSource(open_records(tmp_path / "long.json", None), model.inputs)
    samples, _ = long.samples([0])
    batch = batch_of(long, samples)
    assert model.forward_pass(model.lora_pairs(), batch).labels_BT.shape == batch.labels.shape
    found, _ = batched_gradients(model, long, samples)
    (expected,), _ = sequential_gradients(model, long, samples)
    for name in found:
        torch.testing.assert_close(found[name][0], expected[name].flatten(), rtol=1e-4, atol=1e-6)


def test_the_norm_is_exact_and_the_row_has_length_one(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    batch, projector = batch_of(source, samples), make_projector("count_sketch", 256, 0)
    rows = projected_rows(forward_pass(model, batch), projector, sgd)
    expected, _ = sequential_gradients(model, source, samples)
    norms = torch.stack([torch.cat([g.flatten() for g in one.values()]).norm() for one in expected])
    torch.testing.assert_close(rows.norms_B, norms, rtol=1e-5, atol=0)
    torch.testing.assert_close(rows.values_BD.norm(dim=1), torch.ones(len(samples)))
    assert rows.losses.tokens_B.tolist() == [sample.tokens.num_targets for sample in samples]


@pytest.mark.parametrize("kind", ["count_sketch", "rademacher"])
def test_a_row_is_the_same_alone_and_in_a_batch(
    kind: str, model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    def rows_of(chosen: list[Sample]) -> Tensor:
        batch, projector = batch_of(source, chosen), make_projector(kind, 256, 0)
        return projected_rows(forward_pass(model, batch), projector, sgd).values_BD

    together = rows_of(samples)
    for index, sample in enumerate(samples[:6]):
        torch.testing.assert_close(rows_of([sample])[0], together[index], rtol=0, atol=1e-6)


def test_the_pass_leaves_the_model_as_it_was(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    batch = batch_of(source, samples[:2])
    before = model.hidden_states(batch)
    batched_gradients(model, source, samples[:2])
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.peft.parameters())
    torch.testing.assert_close(model.hidden_states(batch), before, rtol=0, atol=0)


def test_equal_images_go_through_the_vision_tower_once(source: DataSource, samples: list[Sample]) -> None:
    picture = next(sample for sample in samples if sample.images)
    batch = batch_of(source, [picture, picture, picture])
    assert len(batch.images) == 1
    assert batch.image_index == [(0,), (0,), (0,)]


def test_lora_covers_the_language_model_alone(model: VisionLanguageModel) -> None:
    names = [pair.name for pair in lora_pairs(model.peft)]
    layers = model.base.config.text_config.num_hidden_layers
    assert len(names) == 7 * layers
    assert all(".language_model.layers." in name for name in names)


def test_the_training_data_can_be_moved(model: VisionLanguageModel, drawn: Path, tmp_path: Path) -> None:
    """A row depends on the record's content, not on where the files lie."""
    shutil.copytree(drawn / "data", tmp_path / "elsewhere")
    moved = DataSource(
        open_records(tmp_path / "elsewhere" / "train.json", tmp_path / "elsewhere" / "images"), model.inputs
    )
    here = DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), model.inputs)
    first, _ = batched_gradients(model, here, here.samples([0, 1])[0])
    second, _ = batched_gradients(model, moved, moved.samples([0, 1])[0])
    for name in first:
        assert torch.equal(first[name], second[name])


@pytest.fixture(scope="module")
def odd_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    """Grouped-query attention, biases, tied embeddings: what Llama-shaped models may also have."""
    from transformers import LlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("odd") / "model"
    shutil.copytree(tiny_model, folder)
    config = LlavaForConditionalGeneration.config_class.from_pretrained(tiny_model)
    config.text_config.update({"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True})
    torch.manual_seed(0)
    base = LlavaForConditionalGeneration(config)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    base.save_pretrained(folder)
    settings = ModelConfig(base=str(folder), dtype="float32", device="cpu", lora=LoraConfig(r=4, alpha=8))
    model = attach_fresh_lora(load_base(settings), settings.lora)
    model.peft.requires_grad_(False).eval()
    randomise_lora(model.peft)
    return model


def test_grouped_heads_biases_and_shared_images(
    odd_model: VisionLanguageModel, drawn: Path, samples: list[Sample]
) -> None:
    source = DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), odd_model.inputs)
    text = next(sample for sample in samples if not sample.images)
    first, second = [sample for sample in samples if sample.images][:2]
    chosen = [first, text, second, replace(text, row=998), replace(second, row=999), first]
    found, _ = batched_gradients(odd_model, source, chosen)
    expected, _ = sequential_gradients(odd_model, source, chosen)
    for index in range(len(chosen)):
        ours = torch.cat([found[name][index] for name in found])
        oracle = torch.cat([expected[index][name].flatten() for name in found])
        assert (ours - oracle).norm() / oracle.norm() < 1e-5


def test_a_layer_used_twice_is_refused(model: VisionLanguageModel, source: DataSource, samples: list[Sample]) -> None:
    batch = batch_of(source, samples[:2])
    twice = ForwardPass(
        model.lora_pairs(),
        lambda: model.hidden_states(batch) + model.hidden_states(batch),
        model.head,
        batch.labels,
    )
    with pytest.raises(ValueError, match="used more than once"):
        backpropagate(twice, lambda name, grads: None)


def test_a_layer_without_a_part_in_the_loss_is_refused(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    batch = batch_of(source, samples[:2])
    first = model.base.model.language_model.layers[0]
    short = ForwardPass(model.lora_pairs(), lambda: first_layer_output(first, model, batch), model.head, batch.labels)
    with pytest.raises(ValueError, match="had no part in the loss"):
        backpropagate(short, lambda name, grads: None)


def first_layer_output(layer: torch.nn.Module, model: VisionLanguageModel, batch: Batch) -> Tensor:
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    model.hidden_states(batch)
    hook.remove()
    return kept[0]


def test_a_zero_gradient_gives_zeros_not_nan(
    model: VisionLanguageModel, source: DataSource, samples: list[Sample]
) -> None:
    batch = batch_of(source, samples[:3])
    kept = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    forward = ForwardPass(model.lora_pairs(), lambda: model.hidden_states(batch) * kept, model.head, batch.labels)
    sums: dict[str, Tensor] = {}
    add_unit_gradients(forward, sgd, sums)
    directions = {name: total[None] for name, total in sums.items()}
    for rows in (
        exact_rows(forward, directions, sgd),
        projected_rows(forward, make_projector("count_sketch", 64, 0), sgd),
    ):
        assert torch.isfinite(rows.values_BD).all()
        assert not rows.values_BD[1].any()
        assert rows.values_BD[0].any()
    assert float(sum(total.square().sum() for total in sums.values())) > 0.1
