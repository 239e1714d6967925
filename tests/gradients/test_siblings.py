"""Layers that read one input: computed together they give what each gives alone, and the classes named do share it."""

from __future__ import annotations

import gc
import importlib
import weakref
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icons.gradients.adapted import per_sample_gradients
from icons.gradients.lora import LoraPair, lora_pairs
from icons.gradients.per_sample import backpropagate
from icons.gradients.siblings import SHARED_INPUTS, Siblings
from tests.gradients.small_llama import SHAPE, forward_pass, small_llama

SHAPES = ((40, 4, True), (24, 8, False), (32, 2, True))  # out, rank, with a bias
WIDE, SCALING = 48, 1.5


def layers(dtype: torch.dtype = torch.float32, *, together: bool) -> list[LoraPair]:
    """Three adapted layers of one width and several ranks, their weights the same at every call."""
    torch.manual_seed(0)
    siblings, pairs = Siblings(dtype, []), []
    for index, (out, rank, bias) in enumerate(SHAPES):
        base, a, b = nn.Linear(WIDE, out, bias), nn.Linear(WIDE, rank, bias=False), nn.Linear(rank, out, bias=False)
        own = siblings if together else Siblings(dtype, [])
        own.a.append(a)
        base.to(dtype).requires_grad_(False)
        pairs.append(LoraPair(f"layer{index}", nn.Module(), base, a, b, SCALING, own))
    return pairs


def results(pairs: list[LoraPair], inputs: list[Tensor], used: tuple[int, ...] = (0, 1, 2)) -> dict[str, Tensor]:
    """Outputs, the inputs' gradients and each sample's dA and dB, of the sum of the squares of the outputs used."""
    found: dict[str, Tensor] = {}

    def sink(name: str, grads: Tensor) -> None:
        assert name not in found
        found[name] = grads

    leaves = {id(x): x.detach().clone().requires_grad_() for x in inputs}
    with per_sample_gradients(pairs, sink):
        outputs = [pair.module.forward(leaves[id(x)]) for pair, x in zip(pairs, inputs, strict=True)]
        torch.stack([outputs[index].square().sum() for index in used]).sum().backward()
    for index, output in enumerate(outputs):
        found[f"output{index}"] = output.detach()
    for index, leaf in enumerate(leaves.values()):
        assert leaf.grad is not None
        found[f"input{index}"] = leaf.grad
    return found


def same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("used", [(0, 1, 2), (1,), (0, 2)])
def test_together_they_give_what_each_gives_alone(used: tuple[int, ...]) -> None:
    x = torch.randn(3, 7, WIDE)
    got = results(layers(together=True), [x] * 3, used)
    assert sum(name.startswith("layer") for name in got) == 2 * len(used)
    same(got, results(layers(together=False), [x] * 3, used))


def test_another_input_than_the_siblings_is_taken_as_it_is() -> None:
    x, other = torch.randn(3, 7, WIDE), torch.randn(3, 5, WIDE)
    for inputs in ([other, x, x], [x, other, x], [x, x, other]):
        same(results(layers(together=True), inputs), results(layers(together=False), inputs))


def test_an_input_changed_between_siblings_is_another_input() -> None:
    """In place, or from a pass without a graph to one with it."""
    x = torch.randn(3, 7, WIDE)
    changed = 1.5 * x
    with per_sample_gradients(pairs := layers(together=True), {}.__setitem__), torch.no_grad():
        pairs[0].module.forward(x)
        got = pairs[1].module.forward(x.mul_(1.5))
        with torch.enable_grad():
            again = pairs[2].module.forward(x)
    assert not got.requires_grad
    assert again.requires_grad
    expected = results(layers(together=False), [changed] * 3)
    torch.testing.assert_close(got, expected["output1"])
    torch.testing.assert_close(again.detach(), expected["output2"])


@pytest.mark.parametrize("fails", [False, True])
def test_outputs_that_nobody_asks_for_are_not_kept(fails: bool) -> None:
    """Nor the graph that made them, which would hold itself; without Python looking for such rings."""
    x = torch.randn(3, 7, WIDE).requires_grad_()
    inside = weakref.ref(x)
    gc.disable()
    try:
        with suppress(MemoryError), per_sample_gradients(pairs := layers(together=True), {}.__setitem__):
            pairs[0].module.forward(x)
            del x
            assert inside() is not None
            if fails:
                raise MemoryError
        assert inside() is None
    finally:
        gc.enable()


def test_a_layer_of_another_shape_of_input_is_named() -> None:
    with per_sample_gradients(pairs := layers(together=True), {}.__setitem__):
        pairs[0].module.forward(torch.randn(3, 7, WIDE))
        with pytest.raises(ValueError, match=r"layer2: expected an input \[batch, tokens, features\], got \(7, 48\)"):
            pairs[2].module.forward(torch.randn(7, WIDE))


def test_what_cannot_be_opened_says_why_and_leaves_the_layers_as_they_were() -> None:
    pairs = [*layers(together=False), *layers(together=True)]
    pairs[-1].siblings.a[1] = nn.Linear(1, 1)  # of no width that fits
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"), per_sample_gradients(pairs, {}.__setitem__):
        pass
    assert all("forward" not in vars(pair.module) for pair in pairs)


def test_in_bfloat16_the_inputs_gradient_is_as_near_to_float64s() -> None:
    """Between 0.97 and 1.02 times as far on forty inputs: most of the distance is the outputs' rounding."""
    torch.manual_seed(1)
    x = torch.randn(4, 32, WIDE).bfloat16()
    exact = layers(torch.float64, together=False)
    for pair, rounded in zip(exact, layers(torch.bfloat16, together=False), strict=True):
        pair.base.load_state_dict(rounded.base.state_dict())
    expected = results(exact, [x.double()] * 3)["input0"]
    error = {}
    for together in (True, False):
        got = results(layers(torch.bfloat16, together=together), [x] * 3)["input0"]
        error[together] = float((got - expected).norm())
    assert error[True] <= 1.05 * error[False]


def test_a_llamas_layers_are_grouped_but_for_the_last_ones_queries() -> None:
    model = small_llama()
    pairs = model.lora_pairs()
    inputs = {id(pair.siblings): [] for pair in pairs}
    for pair in pairs:
        inputs[id(pair.siblings)].append(".".join(pair.name.split(".")[-3:]))
    assert sorted(inputs.values()) == sorted(
        [
            ["0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.v_proj"],
            ["1.self_attn.q_proj"],
            ["1.self_attn.k_proj", "1.self_attn.v_proj"],
            *([f"{layer}.self_attn.o_proj"] for layer in (0, 1)),
            *([f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"] for layer in (0, 1)),
            *([f"{layer}.mlp.down_proj"] for layer in (0, 1)),
        ]
    )
    for pair in pairs:
        rows = pair.siblings.stacked[pair.siblings.rows(pair.a)]
        assert torch.equal(rows, pair.a.weight)


def test_a_model_gives_the_same_gradients_with_and_without_groups() -> None:
    model = small_llama()
    found: list[dict[str, Tensor]] = []
    for apart in ([], [module for name, module in model.peft.named_modules() if name.endswith("_proj")]):
        batch = forward_pass(model, 3, 12)
        batch.pairs[:] = lora_pairs(model.peft, apart=apart)
        assert (len({id(pair.siblings) for pair in batch.pairs}) == len(batch.pairs)) == bool(apart)
        found.append({})
        backpropagate(batch, found[-1].__setitem__)
    assert len(found[0]) == 28
    same(found[0], found[1])


def test_the_classes_named_give_their_children_one_tensor() -> None:
    read: dict[tuple[str, nn.Module], list[Tensor]] = {}
    for family in ("Llama", "Mistral", "Qwen2", "Qwen2VL", "Qwen2_5_VL", "Qwen3"):
        model = language_model(family)
        for module in model.modules():
            kind = f"{type(module).__module__}.{type(module).__qualname__}"
            for child in SHARED_INPUTS.get(kind, ()):
                inputs = read.setdefault((kind, module), [])
                module.get_submodule(child).register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0]))
        with torch.no_grad():
            model(input_ids=torch.arange(1, 9).unsqueeze(0), use_cache=False)
    assert {kind for kind, _ in read} == SHARED_INPUTS.keys()
    for (kind, _), inputs in read.items():
        assert len(inputs) == len(SHARED_INPUTS[kind])
        assert all(x is inputs[0] for x in inputs)


def language_model(family: str) -> Any:
    path = {"Qwen2VL": "qwen2_vl", "Qwen2_5_VL": "qwen2_5_vl"}.get(family, family.lower())
    modules = (f"transformers.models.{path}.{part}_{path}" for part in ("modeling", "configuration"))
    classes, configs = map(importlib.import_module, modules)
    if "VL" not in family:
        return getattr(classes, f"{family}Model")(getattr(configs, f"{family}Config")(**SHAPE, head_dim=16)).eval()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    return getattr(classes, f"{family}TextModel")(
        getattr(configs, f"{family}TextConfig")(**SHAPE, rope_parameters=rope)
    ).eval()
