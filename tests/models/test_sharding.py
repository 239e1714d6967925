"""One model over several devices: the same gradients as on one, and refused where it cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from icons.config import LoraConfig, ModelConfig
from icons.data.batches import Batch, make_batch
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.evaluation.teacher_forced import teacher_forced
from icons.gradients.projection import make_projector
from icons.gradients.rows import Rows, add_unit_gradients, exact_rows, projected_rows
from icons.gradients.types import adam, sgd
from icons.models.adapters import attach_fresh_lora
from icons.models.generation import greedy_answers
from icons.models.loading import load_base
from icons.models.sharding import move_inputs
from icons.models.vlm import VisionLanguageModel
from tests.models.second_device import HERE, THERE, SecondDevice, move_there, numbers
from tests.reference.gradients import randomise_lora


def plain_model(folder: Path) -> VisionLanguageModel:
    config = ModelConfig(base=str(folder), dtype="float32", device="cpu", lora=LoraConfig(r=4, alpha=8))
    model = attach_fresh_lora(load_base(config), config.lora)
    model.peft.requires_grad_(False).eval()
    randomise_lora(model.peft)
    return model


def over_two_devices(folder: Path, *, moving: bool = True) -> VisionLanguageModel:
    """Vision tower, projector, embeddings and the first layer here; the last layer, norm and head there."""
    model = plain_model(folder)
    inside = "model.language_model"
    assert len(model.base.get_decoder().layers) == 2
    here = ["model.vision_tower", "model.multi_modal_projector", f"{inside}.embed_tokens", f"{inside}.layers.0"]
    there = [f"{inside}.layers.1", f"{inside}.norm", "lm_head"]
    if moving:
        move_inputs(model.base, dict.fromkeys(here, HERE) | dict.fromkeys(there, THERE))
    for name in there:
        move_there(model.base.get_submodule(name))
    return model


@pytest.fixture(scope="module")
def batch(tiny_model: Path, drawn: Path) -> Batch:
    inputs = plain_model(tiny_model).inputs
    source = DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), inputs)
    samples, _ = source.samples(range(len(source.records)))
    chosen = [s for s in samples if not s.images][:3] + [s for s in samples if s.images][:5]
    batch, _ = make_batch(chosen, inputs)
    assert batch is not None
    return batch


def sketched(model: VisionLanguageModel, batch: Batch) -> Rows:
    forward = model.forward_pass(model.lora_pairs(), batch)
    return projected_rows(forward, make_projector("count_sketch", 256, 0), sgd)


def test_rows_are_those_of_one_device(tiny_model: Path, batch: Batch) -> None:
    expected = sketched(plain_model(tiny_model), batch)
    model = over_two_devices(tiny_model)
    with SecondDevice() as second:
        assert {pair.device for pair in model.lora_pairs()} == {HERE, THERE}
        first, again = sketched(model, batch), sketched(model, batch)
    assert second.moves
    for found in (first, again):
        same(found, expected)
        torch.testing.assert_close(found.values_BD.norm(dim=1), torch.ones(len(batch.rows)))


def test_exact_rows_and_sums_are_those_of_one_device(tiny_model: Path, batch: Batch) -> None:
    plain, model = plain_model(tiny_model), over_two_devices(tiny_model)
    generator = torch.Generator().manual_seed(0)
    shapes = {name: weight.numel() for pair in plain.lora_pairs() for name, weight in pair.tensors}
    directions = {name: torch.randn(3, size, generator=generator) for name, size in shapes.items()}
    moments = {name: (0.1 * rows[0], rows[1].square()) for name, rows in directions.items()}
    sums, expected_sums = dict[str, Tensor](), dict[str, Tensor]()
    expected = exact_rows(
        plain.forward_pass(plain.lora_pairs(), batch), directions, adam(moments, 0.9, 0.999, 1e-8)
    )
    add_unit_gradients(plain.forward_pass(plain.lora_pairs(), batch), sgd, expected_sums)
    with SecondDevice():
        pairs = model.lora_pairs()
        where = {name: weight.device for pair in pairs for name, weight in pair.tensors}
        moved = {name: rows.to(where[name]) for name, rows in directions.items()}
        both = {name: (m.to(where[name]), v.to(where[name])) for name, (m, v) in moments.items()}
        found = exact_rows(model.forward_pass(pairs, batch), moved, adam(both, 0.9, 0.999, 1e-8))
        add_unit_gradients(model.forward_pass(pairs, batch), sgd, sums)
    same(found, expected)
    assert {name: total.device for name, total in sums.items()} == where
    for name, total in sums.items():
        torch.testing.assert_close(numbers(total), expected_sums[name], rtol=1e-4, atol=1e-6)


def same(found: Rows, expected: Rows) -> None:
    of_found, of_expected = (
        (rows.values_BD, rows.norms_B, rows.losses.mean_B, rows.losses.tokens_B) for rows in (found, expected)
    )
    assert {tensor.device for tensor in of_found} == {HERE}
    for one, other in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_answers_are_those_of_one_device(tiny_model: Path, batch: Batch) -> None:
    plain, model = plain_model(tiny_model), over_two_devices(tiny_model)
    with torch.no_grad():
        expected = teacher_forced(plain.hidden_states(batch), plain.head, batch.labels)
        with SecondDevice():
            found = teacher_forced(model.hidden_states(batch), model.head, batch.labels)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(numbers(one), other)
    alone = batch.part(0, 1)
    length = alone.lengths[0] - 4
    with SecondDevice():
        written = greedy_answers(model, alone, length, 4)
    assert written == greedy_answers(plain, alone, length, 4)


def test_without_the_moves_it_is_an_error(tiny_model: Path, batch: Batch) -> None:
    """So that the tests above can fail."""
    model = over_two_devices(tiny_model, moving=False)
    with SecondDevice(), pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        sketched(model, batch)
