"""The promises of `icons.gradients.projection`, against matrices written from the definition."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from icons.gradients import hashing, rademacher
from icons.gradients.count_sketch import add_by_gather
from icons.gradients.kinds import PROJECTIONS
from icons.gradients.projection import make_projector
from tests.conftest import ROOT
from tests.reference.projection import MATRIX, keys

NAME = "language_model.layers.0.self_attn.q_proj.lora_A"
SHAPES = [(1, 1), (5, 8), (8, 8), (20, 8), (65, 7), (1000, 300), (2100, 6)]
both_kinds = pytest.mark.parametrize("kind", list(PROJECTIONS))


def gradients(batch: int, size: int) -> Tensor:
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(size + batch))


def project(kind: str, dim: int, grads_BP: Tensor, seed: int = 0, name: str = NAME) -> Tensor:
    out_BD = torch.zeros(grads_BP.shape[0], dim, device=grads_BP.device)
    make_projector(kind, dim, seed).add(name, grads_BP, out_BD)
    return out_BD


def whole_matrix(kind: str, dim: int, size: int, seed: int = 0, name: str = NAME) -> Tensor:
    """P [dim, size], column by column: the projections of the unit vectors."""
    return project(kind, dim, torch.eye(size), seed, name).T


@both_kinds
@pytest.mark.parametrize(("size", "dim"), SHAPES)
def test_every_entry_is_the_one_of_the_definition(kind: str, size: int, dim: int) -> None:
    ours = whole_matrix(kind, dim, size, seed=11).numpy()
    np.testing.assert_allclose(ours, MATRIX[kind](dim, 11, NAME, size), rtol=1e-6, atol=0)


@both_kinds
def test_far_positions_of_a_large_tensor_are_those_of_the_definition(kind: str) -> None:
    size, dim = 9001, 5
    near_edges = [0, 31, 32, 63, 64, 2047, 2048, 4095, 4096, 8191, 8192, 8999, 9000]
    grads = torch.zeros(len(near_edges), size)
    grads[range(len(near_edges)), near_edges] = 1.0
    expected = MATRIX[kind](dim, 0, NAME, size)[:, near_edges].T
    np.testing.assert_allclose(project(kind, dim, grads).numpy(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kind", "digest"), [("count_sketch", "2cebeb392834a557"), ("rademacher", "a99770c4e15cd855")])
def test_version_1_stays_the_matrix_it_is(kind: str, digest: str) -> None:
    """Gradients on disk were made with it; whoever changes the matrix must raise `version`."""
    signs = whole_matrix(kind, 300, 1000, seed=7).sign().to(torch.int8).contiguous()
    assert make_projector(kind, 300, 7).version == 1
    assert hashlib.sha256(signs.numpy().tobytes()).hexdigest()[:16] == digest


def test_keys_take_any_seed_and_name() -> None:
    for seed in (0, -1, 2**70):
        for name in ("", "größe.lora_B", NAME):
            ours = hashing.tensor_keys(seed, "rademacher", name)
            assert (*ours.signs, *ours.offsets) == tuple(keys(seed, "rademacher", name).tolist())


@both_kinds
def test_a_row_does_not_depend_on_its_batch(kind: str) -> None:
    grads = gradients(7, 1500)
    together = project(kind, 256, grads)
    alone = torch.cat([project(kind, 256, row[None]) for row in grads])
    if kind == "count_sketch":
        assert torch.equal(together, alone)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@both_kinds
def test_add_accumulates_over_the_tensors_of_a_model(kind: str) -> None:
    projector = make_projector(kind, 64, 3)
    first, second = gradients(3, 500), gradients(3, 50)
    out = torch.full((3, 64), 2.0)
    for _ in range(2):  # the second time from the caches
        projector.add("a", first, out)
        projector.add("b", second, out)
    once = project(kind, 64, first, 3, "a") + project(kind, 64, second, 3, "b")
    torch.testing.assert_close(out, 2.0 + 2 * once, rtol=1e-5, atol=1e-5)


@both_kinds
def test_one_name_may_be_seen_with_two_sizes(kind: str) -> None:
    projector = make_projector(kind, 64, 0)
    for size in (500, 300, 500):
        out = torch.zeros(2, 64)
        projector.add(NAME, gradients(2, size), out)
        torch.testing.assert_close(out, project(kind, 64, gradients(2, size)), rtol=1e-6, atol=1e-6)


@both_kinds
def test_seed_and_name_give_independent_matrices(kind: str) -> None:
    base = whole_matrix(kind, 32, 512).sign()
    for other in (whole_matrix(kind, 32, 512, seed=1), whole_matrix(kind, 32, 512, name=NAME + "2")):
        agreement = (base * other.sign()).sum() / base.abs().sum()
        assert agreement.abs() < 0.2


@both_kinds
def test_inner_products_are_unbiased_with_the_variance_of_theory(kind: str) -> None:
    size, dim, seeds = 300, 64, 600
    x, y = gradients(2, size).double()
    y = y + 0.5 * x
    pair = torch.stack([x, y]).float()
    projected = torch.stack([project(kind, dim, pair, seed) for seed in range(seeds)]).double()
    products = (projected[:, 0] * projected[:, 1]).sum(1)
    can_meet = ~torch.eye(size, dtype=torch.bool)
    if kind == "count_sketch":
        chunk = torch.arange(size) // dim
        can_meet = chunk[:, None] != chunk
    variance = ((torch.outer(x**2, y**2) + torch.outer(x * y, x * y)) * can_meet).sum() / dim
    standard_error = (variance / seeds).sqrt()
    assert (products.mean() - x @ y).abs() < 3 * standard_error
    assert 0.8 < products.var() / variance < 1.2


@both_kinds
def test_no_two_positions_are_correlated_beyond_chance(kind: str) -> None:
    """Columns of P are near orthogonal: the hash leaves no pattern between neighbouring positions or words."""
    if kind == "rademacher":
        columns = whole_matrix(kind, 1024, 700).double()
        cosines = (columns.T @ columns - torch.eye(700)).abs()
        assert cosines.max() < 6 / 32
        assert 0.95 < (cosines**2).sum() / (700 * 699 / 1024) < 1.05
    signs = whole_matrix(kind, 1, 4096)[0].sign()
    lagged = torch.stack([(signs[lag:] * signs[:-lag]).mean() for lag in range(1, 200)])
    assert signs.mean().abs() < 4 / 64
    assert lagged.abs().max() < 4.5 / 62


def test_a_tensor_no_longer_than_dim_keeps_its_length_in_a_count_sketch() -> None:
    for size in (1, 100, 256):
        grads = gradients(4, size)
        torch.testing.assert_close(project("count_sketch", 256, grads).norm(dim=1), grads.norm(dim=1))


@both_kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_summed_in_float32(kind: str, dtype: torch.dtype) -> None:
    grads = gradients(3, 3000).to(dtype)
    assert torch.equal(project(kind, 16, grads), project(kind, 16, grads.float()))


@both_kinds
def test_an_empty_batch_changes_nothing(kind: str) -> None:
    assert project(kind, 8, torch.zeros(0, 20)).shape == (0, 8)


@both_kinds
def test_gradients_that_require_grad_leave_no_graph(kind: str) -> None:
    assert not project(kind, 8, gradients(2, 20).requires_grad_()).requires_grad


@pytest.mark.parametrize(("size", "dim"), SHAPES)
def test_the_gather_way_gives_the_same_sketch(size: int, dim: int) -> None:
    grads, out = gradients(3, size), torch.ones(3, dim)
    key = hashing.tensor_keys(0, "count_sketch", NAME)
    add_by_gather(grads, out, hashing.offsets(-(-size // dim), dim, key.offsets), key.signs)
    torch.testing.assert_close(out, 1 + project("count_sketch", dim, grads), rtol=1e-5, atol=1e-5)


def test_signs_made_afresh_equal_cached_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = gradients(3, 5000)
    cached = project("rademacher", 32, grads)
    monkeypatch.setattr(rademacher, "WORD_CACHE_BYTES", 0)
    monkeypatch.setattr(rademacher, "SIGNS_AT_ONCE", 5 * 64 * 32)
    projector = make_projector("rademacher", 32, 0)
    for _ in range(2):
        out = torch.zeros(3, 32)
        projector.add(NAME, grads, out)
        torch.testing.assert_close(out, cached, rtol=1e-5, atol=1e-5)


@both_kinds
def test_operands_outside_the_contract_are_refused(kind: str) -> None:
    projector = make_projector(kind, 8, 0)
    good, out = torch.zeros(2, 20), torch.zeros(2, 8)
    refused = [
        (torch.zeros(20), out, "expected gradients"),
        (torch.zeros(3, 20), out, "expected gradients"),
        (good, torch.zeros(2, 9), "expected gradients"),
        (good.double(), out, "float32, bfloat16 or float16"),
        (good, out.bfloat16(), "float32 output"),
        (torch.zeros(20, 2).T, out, "contiguous"),
        (good, torch.zeros(8, 2).T, "contiguous"),
        (good.to("meta"), out, "on meta"),
        (torch.zeros(1, 2**30, device="meta"), torch.zeros(1, 8, device="meta"), "at most"),
    ]
    for grads_BP, out_BD, message in refused:
        with pytest.raises(ValueError, match=f"{NAME}: .*{message}"):
            projector.add(NAME, grads_BP, out_BD)
    assert torch.equal(out, torch.zeros(2, 8))


def test_an_unknown_kind_or_dim_is_refused() -> None:
    with pytest.raises(ValueError, match="count_sketch, rademacher"):
        make_projector("gaussian", 8, 0)
    for kind in PROJECTIONS:
        with pytest.raises(ValueError, match="dim must be in"):
            make_projector(kind, 0, 0)


@pytest.mark.skipif(find_spec("triton") is None, reason="the triton package is not installed")
def test_triton_kernels_under_the_interpreter_equal_the_cpu() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "tests.gradients.test_projection"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compared", "20"]


def compare_kernels_with_the_cpu() -> None:
    """bfloat16 has no row for rademacher: the interpreter multiplies its bit patterns as integers in tl.dot."""
    from icons.gradients import kernels

    kernels.PROGRAMS = kernels.DENSE_PROGRAMS = (
        12  # several chunks or blocks a split, and several splits, at these small sizes
    )
    compared = 0
    for batch, size, dim in [(3, 700, 200), (17, 90, 200), (2, 200, 200), (5, 9000, 130)]:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for kind in PROJECTIONS:
                if (kind, dtype) == ("rademacher", torch.bfloat16):
                    continue
                grads = gradients(batch, size).to(dtype)
                key = hashing.tensor_keys(0, kind, NAME)
                out = torch.ones(batch, dim)
                if kind == "count_sketch":
                    offsets = hashing.offsets(-(-size // dim), dim, key.offsets)
                    kernels.add_count_sketch(grads, out, offsets.to(torch.int32), key.signs)
                else:
                    kernels.add_rademacher(grads, out, key.signs)
                expected = 1 + project(kind, dim, grads)
                assert ((out - expected).norm(dim=1) < 1e-5 * expected.norm(dim=1)).all(), (kind, size, dim, dtype)
                compared += 1
    print("compared", compared)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@both_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("batch", "size", "dim"), [(3, 700, 200), (17, 90, 200), (33, 300_001, 512), (1, 4096, 1)])
def test_gpu_equals_cpu(kind: str, dtype: torch.dtype, batch: int, size: int, dim: int) -> None:
    grads = gradients(batch, size).to(dtype)
    ours = project(kind, dim, grads.cuda()).cpu().double()
    error = (ours - project(kind, dim, grads)).norm(dim=1) / ours.norm(dim=1)
    # one output alone (dim 1) may cancel; its scale is then the gradient's
    scale = grads.double().norm(dim=1) / ours.norm(dim=1)
    assert (error < 1e-5 * scale.clamp(min=1)).all()
    alone = project(kind, dim, grads[:1].cuda()).cpu()
    torch.testing.assert_close(alone[0].double(), ours[0], rtol=1e-5, atol=1e-4)


if __name__ == "__main__":
    compare_kernels_with_the_cpu()
