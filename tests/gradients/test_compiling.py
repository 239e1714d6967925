"""The Triton kernels, compiled to machine code for the cards they are meant for. No GPU is needed or measured."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="the triton package is not installed")
CARDS = {80: "A100", 90: "H100, H200", 100: "B200"}
"""Compute capability times ten -> cards."""


def test_every_kernel_compiles_for_every_card(tmp_path: Path) -> None:
    """In a process of its own, whose compiler keeps its files in a folder of the test's."""
    command = [sys.executable, "-W", "error", "-m", "tests.gradients.test_compiling", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compiled", str(6 * len(CARDS))]


@pytest.mark.parametrize("batch", [1, 15, 40, 200])
@pytest.mark.parametrize("dim", [64, 5120, 40_000])
def test_the_dense_kernel_keeps_to_its_programs(batch: int, dim: int) -> None:
    from icons.gradients.hashing import BLOCK
    from icons.gradients.kernels import DENSE_PROGRAMS, dense_plan

    for size in (1, 4096 * 128, 11008 * 128):
        splits, blocks, block_b, block_d = dense_plan(batch, size, dim)
        columns = -(-dim // block_d)
        assert block_b == min(64, max(16, 1 << (batch - 1).bit_length()))
        assert splits == 1 or splits * columns <= DENSE_PROGRAMS == 528
        assert (splits - 1) * blocks * BLOCK < size <= splits * blocks * BLOCK
        assert (splits, blocks) == dense_plan(3, size, dim)[:2]


def compile_all(folder: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from icons.gradients import kernels, layer_kernels

    triton.knobs.cache.dir = folder
    half, whole, number = "*bf16", "*fp32", "i32"
    keys = {"size": number, "batch": number, "key0": number, "key1": number}
    strides = ("tokens", "x_b", "x_n", "x_t", "y_b", "y_n", "y_t", "c_b", "c_t")
    tiles = {"DIM": 5120, "BLOCK_B": 16}
    todo = [
        (kernels._count_sketch_partials, {"grads": half, "offsets": "*i32", "partials": whole, **keys},
         {"CHUNKS": 4, "BLOCK_D": 128, **tiles}),
        (kernels._rademacher_partials, {"grads": half, "partials": whole, **keys},
         {"BLOCKS": 43, "BLOCK_D": 64, "LANES": 64, "IS_FLOAT32": False, **tiles}),
        (kernels._add_partials, {"partials": whole, "out": whole, "count": number, "scale": "fp32"},
         {"SPLITS": 8, "BLOCK_N": 512}),
        (layer_kernels._swiglu, {"gate": half, "up": half, "out": half, "count": number}, {"BLOCK": 1024}),
        (layer_kernels._swiglu_backward,
         {**dict.fromkeys(("gate", "up", "grad", "grad_gate", "grad_up"), half), "count": number}, {"BLOCK": 1024}),
        (layer_kernels._rotate,
         {**dict.fromkeys(("x", "cos", "sin", "y"), half), **dict.fromkeys(strides, number)},
         {"HALF": 64, "BLOCK_T": 16, "BLOCK_H": 64, "BACKWARD": True}),
    ]  # fmt: skip
    compiled = 0
    for kernel, signature, constants in todo:
        source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constants)
        for capability in CARDS:
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            assert made.asm["cubin"]
            if kernel is kernels._count_sketch_partials:  # a warp's threads read neighbouring positions of one sample
                assert "threadsPerWarp = [1, 32], warpsPerCTA = [1, 4], order = [1, 0]" in made.asm["ttgir"]
            compiled += 1
    print("compiled", compiled)


if __name__ == "__main__":
    compile_all(sys.argv[1])
