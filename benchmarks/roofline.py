"""What one sample's gradient costs on a GPU, from counts: operations, bytes and launches of the whole LLaVA-1.5-7B.

The model runs on torch's meta device, whose tensors have a shape and no memory, forward and backward through the
engine. Products are counted by torch's FLOP counter; bytes are those of every operation's operands and results, as if
nothing stayed in a cache; a launch is an operation that is no view. An operation takes the longer of its arithmetic
and its bytes. The rates are assumptions of what such cards reach in plain kernels of each kind: everything here is
estimated, not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from setting import Setting, llava_7b
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers.models.llama import modeling_llama

from icons.data.batches import Batch
from icons.data.tokens import IGNORE
from icons.gradients.layers import ALL
from icons.gradients.per_sample import backpropagate, squared_norms
from icons.models.fused import fused_parts, in_place_of_their_own

PARTS = (
    "vision tower and projector",
    "products with the base's weights",
    "thin LoRA products",
    "products of each sample",
    "attention",
    "element-wise",
    "norm and sketch",
)


def _formula(plain: Any) -> Callable[..., int]:
    formula = flop_registry[plain]

    def flop(*args: Any, **kwargs: Any) -> int:
        return int(formula(*args, **kwargs))

    flop._get_raw = True  # type: ignore[attr-defined]  # as torch's counter marks those that read the shapes themselves
    return flop


aten = torch.ops.aten
IN_PLACE = {aten.addmm_: _formula(aten.addmm), aten.baddbmm_: _formula(aten.baddbmm)}  # torch's counter has neither
FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, **IN_PLACE}

NOTHING = ("aten::empty", "aten::new_empty", "aten::_unsafe_view")
"""Operations that neither read nor write."""


@dataclass(frozen=True)
class Card:
    """10^12 operations a second of large products, batched products and attention; 10^12 bytes a second."""

    name: str
    products: float
    batched: float
    attention: float
    bandwidth: float


CARDS = Card("H100", 700, 600, 320, 3.0), Card("H200", 700, 600, 320, 4.3)


@dataclass
class Cost:
    """Of one part of a batch; `seconds` by card."""

    flop: float = 0.0
    moved: float = 0.0
    launches: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys((card.name for card in CARDS), 0.0))


class Count(TorchDispatchMode):
    """Adds up every operation; `part` overrides the part that an operation's kind says."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.part = rank, ""
        self.costs = {part: Cost() for part in PARTS}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "_pin_memory":
            return args[0]  # there may be no GPU to lock a page for
        if func.overloadpacket.__name__ == "_local_scalar_dense":
            return True  # the one question of a batch: are all positions in a row
        out = func(*args, **kwargs or {})
        if not getattr(func, "is_view", False) and not func.name().startswith(NOTHING):
            read = {name: value for name, value in (kwargs or {}).items() if name != "out"}
            tensors = [each for each in tree_flatten((args, read, out))[0] if isinstance(each, Tensor)]
            if any(tensor.device.type == "meta" for tensor in tensors):
                packet = func.overloadpacket
                flop = FORMULAS[packet](*args, **kwargs or {}, out_val=out) if packet in FORMULAS else 0
                self.add(packet.__name__, flop, tensors)
        return out

    def add(self, name: str, flop: float, tensors: list[Tensor]) -> None:
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        part = self.part or self._part(name, tensors)
        cost = self.costs[part]
        cost.flop, cost.moved, cost.launches = cost.flop + flop, cost.moved + moved, cost.launches + 1
        for card in CARDS:
            rate = card.attention if "attention" in name else card.batched if "bmm" in name else card.products
            cost.seconds[card.name] += max(flop / rate, moved / card.bandwidth) / 1e12

    def _part(self, name: str, tensors: list[Tensor]) -> str:
        if "attention" in name:
            return "attention"
        if "bmm" in name:
            return "products of each sample"
        if name not in ("mm", "addmm", "addmm_", "convolution"):
            return "element-wise"
        ranks = {self.rank, 2 * self.rank, 3 * self.rank}  # layers that read one input share the product with A
        thin = any(tensor.dim() == 2 and ranks.intersection(tensor.shape) for tensor in tensors)
        return "thin LoRA products" if thin else "products with the base's weights"


@contextmanager
def attention_of_a_gpu() -> Iterator[None]:
    """The kernels that a GPU takes, where the meta device would write out all the scores."""
    plain = F.scaled_dot_product_attention

    def chosen(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        scale = options.get("scale")
        if attn_mask is None:
            causal = bool(options.get("is_causal", False))
            mixed: Tensor = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)[0]
            return mixed
        bias = attn_mask.to(q.dtype).expand(q.shape[0], q.shape[1], *attn_mask.shape[2:])
        masked: Tensor = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=scale)[0]
        return masked

    F.scaled_dot_product_attention = chosen
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


class _OnePass(torch.autograd.Function):
    """A fused operation on paper: operands read and result written once, and again on the way back."""

    @staticmethod
    def forward(ctx: Any, count: Count, reads_again: bool, *operands: Tensor) -> Tensor:
        ctx.count, ctx.operands, ctx.reads_again = count, operands, reads_again
        out = torch.empty_like(operands[0])
        count.add("fused", 0, [*operands, out])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads = [torch.empty_like(operand) for operand in ctx.operands]
        ctx.count.add("fused", 0, [*(ctx.operands if ctx.reads_again else ()), grad, *grads])
        return None, None, *grads


@contextmanager
def fused_on_paper(count: Count, decoder: nn.Module) -> Iterator[None]:
    """The parts that a GPU computes in one operation each (`icons.models.fused`)."""

    def norm(x: Tensor) -> Tensor:
        return _OnePass.apply(count, True, x)

    def mlp(module: Any, x: Tensor) -> Tensor:
        return module.down_proj(_OnePass.apply(count, True, module.gate_proj(x), module.up_proj(x)))

    def turned(q: Tensor, k: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return _OnePass.apply(count, False, q), _OnePass.apply(count, False, k)

    found = fused_parts(decoder, kernels=True)
    swaps: list[Any] = [(part, partial(mlp, part) if hasattr(part, "down_proj") else norm) for part, _ in found]
    with in_place_of_their_own(swaps, kernels=False):
        plain = modeling_llama.apply_rotary_pos_emb
        modeling_llama.apply_rotary_pos_emb = turned
        try:
            yield
        finally:
            modeling_llama.apply_rotary_pos_emb = plain


def count_batch(
    setting: Setting,
    samples: int,
    tokens: int,
    answer: int,
    dim: int,
    rank: int,
    *,
    fused: bool = True,
    layers: str = ALL,
) -> dict[str, Cost]:
    """Costs of a batch of equal samples, by part; each has an image, and `answer` labels at its end."""
    model, count = setting.model, Count(rank)
    image = model.inputs.image_token_id
    assert image is not None
    patches = next(sample for sample in setting.samples).tokens.ids.count(image)
    ids = torch.tensor([1] + [image] * patches + [5] * (tokens - patches - 1)).repeat(samples, 1)
    labels = torch.full_like(ids, IGNORE)
    labels[:, -answer:] = 5
    pixels = setting.collate(setting.samples[:1]).images[0]["pixel_values"]
    images = [{"pixel_values": torch.empty_like(pixels, device="meta")} for _ in range(samples)]
    places = [(index,) for index in range(samples)]
    batch = Batch(list(range(samples)), [tokens] * samples, ids, labels, images, places)

    def during(part: str) -> Callable[..., None]:
        return lambda *_: setattr(count, "part", part)

    tower = [model.base.model.vision_tower, model.base.model.multi_modal_projector]
    hooks = [part.register_forward_pre_hook(during("vision tower and projector")) for part in tower]
    hooks += [part.register_forward_hook(during("")) for part in tower]
    out = torch.empty(samples, dim, device="meta")

    def sketch(name: str, grads_BP: Tensor) -> None:
        count.part = "norm and sketch"
        squared_norms(grads_BP)
        count.add("sketch", 0, [grads_BP, out])
        count.part = ""

    parts = fused_on_paper(count, model.base.get_decoder()) if fused else nullcontext()
    pairs = model.lora_pairs(layers)
    for pair in pairs:
        _ = pair.siblings.stacked, pair.scaled_b  # made once, not for every batch
    with count, attention_of_a_gpu(), parts:
        backpropagate(model.forward_pass(pairs, batch), sketch)
    for hook in hooks:
        hook.remove()
    return count.costs


def lines(
    costs: dict[str, Cost], unfused: dict[str, Cost], samples: int, floor_seconds: float
) -> list[tuple[str, ...]]:
    """Part | TFLOP | GB | launches a batch | ms by card, of one sample; then two to compare it with."""
    rows = []
    plain = ("together, were norms, SwiGLU and rotary not fused", together(unfused))
    for name, cost in [*costs.items(), ("together", together(costs)), plain]:
        ms = [f"{1e3 * cost.seconds[card.name] / samples:.1f}" for card in CARDS]
        rows.append(
            (name, f"{cost.flop / samples / 1e12:.2f}", f"{cost.moved / samples / 1e9:.1f}", f"{cost.launches:,}", *ms)
        )
    return [*rows, ("the floor of the next table", "", "", "", *[f"{1e3 * floor_seconds:.1f}"] * len(CARDS))]


LAST = (ALL, "last-16", "last-8", "last-4", "last-2", "last-1")


def lines_by_layers(setting: Setting, sizes: tuple[int, int, int, int, int]) -> list[tuple[str, ...]]:
    """`gradients.layers` | LoRA parameters | TFLOP | part of all | by card ms and part of all; of one sample."""
    costs = {layers: together(count_batch(setting, *sizes, layers=layers)) for layers in LAST}
    whole, rows = costs[ALL], []
    for layers, cost in costs.items():
        tensors = [weight for pair in setting.model.lora_pairs(layers) for _, weight in pair.tensors]
        row = [layers, f"{sum(map(Tensor.numel, tensors)):,}", f"{cost.flop / sizes[0] / 1e12:.2f}"]
        row.append(f"{cost.flop / whole.flop:.2f}")
        for card in CARDS:
            seconds = cost.seconds[card.name]
            row += [f"{1e3 * seconds / sizes[0]:.1f}", f"{seconds / whole.seconds[card.name]:.2f}"]
        rows.append(tuple(row))
    return rows


def together(costs: dict[str, Cost]) -> Cost:
    total = Cost()
    for cost in costs.values():
        total.flop, total.moved, total.launches = (
            total.flop + cost.flop, total.moved + cost.moved, total.launches + cost.launches,
        )  # fmt: skip
        total.seconds = {name: total.seconds[name] + cost.seconds[name] for name in total.seconds}
    return total


def llava_on_paper() -> Setting:
    return llava_7b(torch.device("meta"), 1)


def counted_flop(work: Callable[[], object]) -> float:
    """Operations of a piece of work's products and attention, on any device."""
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        work()
    return float(counter.get_total_flops())
