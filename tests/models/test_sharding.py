"""One model over several devices: the same gradients as on one, and refused where it cannot be right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from accelerate.utils.modeling import check_device_map
from torch import Tensor, nn

from icons.config import LoraConfig, ModelConfig
from icons.data.batches import Batch, make_batch
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.errors import UserError
from icons.evaluation.teacher_forced import teacher_forced
from icons.gradients.memory import APART, SHARE, split_layers, tokens_that_fit
from icons.gradients.projection import make_projector
from icons.gradients.rows import Rows, add_unit_gradients, exact_rows, projected_rows
from icons.gradients.types import adam, sgd
from icons.models import loading, sharding
from icons.models.adapters import attach_fresh_lora
from icons.models.generation import greedy_answers
from icons.models.loading import load_base
from icons.models.sharding import move_inputs
from icons.models.vlm import VisionLanguageModel
from tests.models.second_device import HERE, THERE, SecondDevice, move_there, numbers
from tests.reference.gradients import random_lora_model, randomise_lora


def over_two_devices(folder: Path, *, moving: bool = True, back: bool = False) -> VisionLanguageModel:
    """The last decoder layer there and all else here; without `back` norm and head lie there too."""
    model = random_lora_model(folder)
    inside = "model.language_model"
    assert len(model.base.get_decoder().layers) == 2
    here = ["model.vision_tower", "model.multi_modal_projector", f"{inside}.embed_tokens", f"{inside}.layers.0"]
    there, end = [f"{inside}.layers.1"], [f"{inside}.norm", "lm_head"]
    here, there = (here + end, there) if back else (here, there + end)
    if moving:
        move_inputs(model.base, dict.fromkeys(here, HERE) | dict.fromkeys(there, THERE))
    for name in there:
        move_there(model.base.get_submodule(name))
    return model


@pytest.fixture(scope="module")
def batch(tiny_model: Path, drawn: Path) -> Batch:
    inputs = random_lora_model(tiny_model).inputs
    source = DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), inputs)
    samples, _ = source.samples(range(len(source.records)))
    chosen = [s for s in samples if not s.images][:3] + [s for s in samples if s.images][:5]
    batch, _ = make_batch(chosen, inputs)
    assert batch is not None
    return batch


def sketched(model: VisionLanguageModel, batch: Batch) -> Rows:
    forward = model.forward_pass(model.lora_pairs(), batch)
    return projected_rows(forward, make_projector("count_sketch", 256, 0), sgd)


@pytest.mark.parametrize("back", [True, False])
def test_rows_are_those_of_one_device(back: bool, tiny_model: Path, batch: Batch) -> None:
    expected = sketched(random_lora_model(tiny_model), batch)
    model = over_two_devices(tiny_model, back=back)
    with SecondDevice() as second:
        assert {pair.device for pair in model.lora_pairs()} == {HERE, THERE}
        first, again = sketched(model, batch), sketched(model, batch)
    assert second.moves
    for found in (first, again):
        same(found, expected)
        torch.testing.assert_close(found.values_BD.norm(dim=1), torch.ones(len(batch.rows)))


def test_exact_rows_and_sums_are_those_of_one_device(tiny_model: Path, batch: Batch) -> None:
    plain, model = random_lora_model(tiny_model), over_two_devices(tiny_model)
    generator = torch.Generator().manual_seed(0)
    shapes = {name: weight.numel() for pair in plain.lora_pairs() for name, weight in pair.tensors}
    directions = {name: torch.randn(3, size, generator=generator) for name, size in shapes.items()}
    moments = {name: (0.1 * rows[0], rows[1].square()) for name, rows in directions.items()}
    sums, expected_sums = dict[str, Tensor](), dict[str, Tensor]()
    expected = exact_rows(plain.forward_pass(plain.lora_pairs(), batch), directions, adam(moments, 0.9, 0.999, 1e-8))
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
    plain, model = random_lora_model(tiny_model), over_two_devices(tiny_model)
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


def test_a_model_is_read_by_a_map_and_keeps_torchs_own_hooks_alone(
    tiny_model: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both GPUs of the map are played by the CPU, and Accelerate hangs its hooks on all modules as it does for GPUs."""
    config = ModelConfig(base=str(tiny_model), dtype="float32", device_map="auto", lora=LoraConfig(r=4, alpha=8))
    maps: list[sharding.DeviceMap] = []

    def on_the_cpu(config: ModelConfig, bare: nn.Module) -> sharding.DeviceMap:
        maps.append(sharding.spread(config, bare, [CARD, CARD]))
        return dict.fromkeys(maps[0], HERE)

    monkeypatch.setattr(loading, "pick_devices", lambda config: [HERE])
    monkeypatch.setattr(loading, "spread", on_the_cpu)
    loaded = load_base(config)
    assert {place.index for place in maps[0].values()} == {0, 1}
    dispatch_model(loaded.base, dict.fromkeys(maps[0], "cpu"), force_hooks=True)
    assert any(hasattr(module, "_hf_hook") for module in loaded.base.modules())
    move_inputs(loaded.base, dict.fromkeys(maps[0], HERE))
    assert not any("forward" in vars(module) or hasattr(module, "_hf_hook") for module in loaded.base.modules())
    model = attach_fresh_lora(loaded, config.lora)
    model.peft.requires_grad_(False).eval()
    randomise_lora(model.peft)
    same(sketched(model, batch), sketched(random_lora_model(tiny_model), batch))


CARD = 24e9
"""Bytes of a small one."""


def llava(layers: int, hidden: int, intermediate: int) -> nn.Module:
    """A LLaVA of a Llama's sizes, without weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    text = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=hidden // 128
    )
    vision = CLIPVisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
    with torch.device("meta"):
        return LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision))


def shares(config: ModelConfig, bare: nn.Module, cards: int) -> list[int]:
    """Layers on each card; all else on the first."""
    places = sharding.spread(config, bare, [CARD] * cards)
    check_device_map(bare, places)
    layers = {name: place for name, place in places.items() if ".language_model.layers." in name}
    assert {place.index for name, place in places.items() if name not in layers} == {0}
    numbers = [place.index for place in layers.values()]
    assert numbers == sorted(numbers)
    return [numbers.count(card) for card in range(cards)]


def test_layers_are_shared_so_that_the_most_tokens_fit() -> None:
    plain, small = (ModelConfig(base="/none", device_map="auto", quantization=bits) for bits in (None, "4bit"))
    bare = llava(40, 5120, 13824)  # 13B
    with pytest.raises(UserError, match=r"weights of 26.7 GB, and .*, do not fit 1 GPU\(s\) with 24.0 GB free"):
        sharding.spread(plain, bare, [CARD])
    assert shares(plain, bare, 2) == [19, 21]  # the first has the vision tower, embeddings and head
    assert shares(plain, bare, 4) == [10, 10, 10, 10]
    assert shares(small, bare, 1) == [40]


@pytest.mark.parametrize("room", [[24e9, 24e9], [20e9, 24e9, 8e9], [6e9, 80e9]])
def test_no_other_split_takes_more_tokens(room: list[float]) -> None:
    layers, weight, token = 12, 0.6e9, 2e5

    def tokens(counts: Sequence[int]) -> int:
        fit = [
            tokens_that_fit(free - count * weight, round(count * token))
            for free, count in zip(room, counts, strict=True)
            if count
        ]
        enough = all(SHARE * (free - count * weight) > APART for free, count in zip(room, counts, strict=True) if count)
        return min(fit) if enough else 0

    every = [c for c in product(range(layers + 1), repeat=len(room)) if sum(c) == layers]
    found = split_layers(layers, room, weight, token)
    assert found is not None
    assert sum(found) == layers
    assert tokens(found) >= 0.999 * max(map(tokens, every)) > 0
    assert split_layers(200, room, weight, token) is None


def test_without_the_moves_it_is_an_error(tiny_model: Path, batch: Batch) -> None:
    """So that the tests above can fail."""
    model = over_two_devices(tiny_model, moving=False)
    with SecondDevice(), pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        sketched(model, batch)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_give_the_rows_of_a_cpu(tiny_model: Path, batch: Batch) -> None:
    config = ModelConfig(base=str(tiny_model), dtype="float32", device_map="auto", lora=LoraConfig(r=4, alpha=8))
    model = attach_fresh_lora(load_base(config), config.lora)
    model.peft.requires_grad_(False).eval()
    for name, parameter in random_lora_model(tiny_model).peft.named_parameters():
        if "lora_" in name:
            model.peft.get_parameter(name).data.copy_(parameter)
    assert len({pair.device for pair in model.lora_pairs()}) == 2
    rows, expected = sketched(model, batch).to_host(torch.float32)(), sketched(random_lora_model(tiny_model), batch)
    torch.testing.assert_close(rows.values_BD, expected.values_BD, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rows.norms_B, expected.norms_B, rtol=1e-3, atol=0)
