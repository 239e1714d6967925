"""Disk, arithmetic and time of a run of LLaVA-1.5-7B's size, from counts of parameters, rows and operations.

`python benchmarks/costs.py` prints the tables of docs/reproduce.md. Bytes are exact but for headers. Times on a GPU are
the arithmetic over a rate of plain matrix products: a floor, which nothing has been measured against; `--ms` puts a
measured time for one sample's gradient in its place. `--specialist` measures stage 1 on this machine's CPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from roofline import CARDS, count_batch, lines, lines_by_layers, llava_on_paper
from setting import circumstances, describe
from torch import nn

from icons.config import LoraConfig
from icons.gradients.memory import GIB, DecoderShape, token_bytes, tokens_that_fit
from icons.models.parts import language_linears, projector_name
from icons.selection.influence import influence_matrix, influence_scores
from icons.store.checksum import checksum
from icons.store.files import write_tensors
from icons.store.rows import Shard

GB = 1e9
DIM, SHARD_ROWS = 5120, 4096
ROW_BYTES = {"rows": 8, "grads": 2 * DIM, "norms": 4, "losses": 4, "target_tokens": 4, "valid": 1}
COLUMNS, TASKS = 10, 22  # of the score table; files of validation samples
CHECKPOINTS, STEPS, BATCH = 5, 500, 16  # of the warm-up


@dataclass(frozen=True)
class Counts:
    """Parameters of LLaVA-1.5-7B as `icons assemble` writes it, with LoRA r 128 on the language model."""

    model: int
    vision: int
    clip: int  # the whole published CLIP, of which the vision tower is a part
    projector: int
    linear: int  # what LoRA sits on
    head: int
    lora: int


def counts() -> Counts:
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    text = LlamaConfig(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, tie_word_embeddings=False,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, projection_dim=768, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14,
    )  # fmt: skip
    words = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
        clip = CLIPModel(CLIPConfig(vision_config=vision.to_dict(), text_config=words, projection_dim=768))
    layers, r = language_linears(model).values(), LoraConfig().r
    vision_tower = next(module for name, module in model.named_modules() if name.endswith("vision_tower"))
    return Counts(
        model=_size(model),
        vision=_size(vision_tower),
        clip=_size(clip),
        projector=_size(model.get_submodule(str(projector_name(model)))),
        linear=sum(_size(layer) for layer in layers),
        head=_size(model.lm_head),
        lora=sum(r * (layer.in_features + layer.out_features) for layer in layers),
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gradient_flop(own: Counts, tokens: int, answer: int) -> tuple[float, float]:
    """Operations of one sample's loss and LoRA gradient, and of a training step's with its second forward pass.

    Two for each parameter and token forward and, the base being frozen, two backward; LoRA takes six. Attention
    [T, T] costs 4 T^2 h a layer forward and twice that backward. The vision tower only goes forward, on 577 positions.
    """
    layers, width = 32, 4096
    language = 2 * (own.linear + own.lora) * tokens + 4 * tokens**2 * width * layers
    vision = 2 * own.vision * 577 + 4 * 577**2 * 1024 * 24 + 2 * own.projector * 576
    backward = 2 * own.linear * tokens + 4 * own.lora * tokens + 8 * tokens**2 * width * layers
    head = 4 * own.head * answer
    return language + vision + backward + head, 2 * language + vision + backward + head


def disk(own: Counts, rows: int, data_bytes: float) -> list[tuple[str, str, float]]:
    """What | how many bytes, in words | bytes."""
    adapter = 4 * (own.lora + own.projector)
    row = sum(ROW_BYTES.values())
    kept = [
        ("Vicuna-7B-v1.5", "language model, float16", 2 * (own.model - own.vision - own.projector)),
        ("CLIP ViT-L/14-336", "all of CLIP, float32", 4 * own.clip),
        ("mm_projector.bin", "projector, 2 bytes each", 2 * own.projector),
        ("assembled model", "language model and projector float16, vision tower float32",
         2 * own.model + 2 * own.vision),
        ("a training checkpoint", "LoRA and projector float32, twice that for AdamW", 3 * adapter),
        ("`warmup/`", f"{CHECKPOINTS} checkpoints and `final/`", (CHECKPOINTS + 1) * 3 * adapter),
        ("`train_grads/`", f"{rows:,} rows of {row:,} bytes", rows * row),
        ("`val_grads/`", "for each 1,000 validation samples", 1000 * row),
        ("`influence/`, scores", f"{COLUMNS} and, shard by shard, {TASKS} float32 a row",
         rows * (4 * COLUMNS + 1 + 4 * TASKS + 9)),
        ("`influence/`, matrices", "float16, for each 1,000 validation samples (`influence.save_matrix`)",
         rows * 1000 * 2),
        ("`selection/`", "20% of the data file, votes", 0.2 * data_bytes + 3 * rows),
        ("`finetune/<name>/`", "two checkpoints and `final/` without the optimizer", 7 * adapter),
        ("`finetune/<name>/merged/`", "bfloat16", 2 * own.model),
    ]  # fmt: skip
    once = sum(each for name, _, each in kept if name not in ("a training checkpoint", "`influence/`, matrices"))
    more = 2 * sum(each for name, _, each in kept if name.startswith("`finetune/"))
    return [*kept, ("together", "with three final runs; without images, data file and matrices", once + more)]


def times(own: Counts, rows: int, options: argparse.Namespace) -> list[tuple[str, str, float]]:
    """Stage | samples and time of each, in words | GPU hours."""
    gradient, step = gradient_flop(own, options.tokens, options.answer)
    per_gradient = options.ms / 1000 if options.ms else gradient / (options.tflops * 1e12)
    per_step = per_gradient * step / gradient
    selected = int(0.2 * rows)
    seconds = [
        ("`warmup`", STEPS * BATCH, per_step),
        ("`train-grads`", rows, per_gradient),
        ("`val-grads`, each 1,000 samples", 1000, per_gradient),
        ("`finetune`, 20%", selected, per_step),
        ("`finetune --everything`", rows, per_step),
    ]
    return [(name, f"{count:,} x {each * 1000:.1f} ms", count * each / 3600) for name, count, each in seconds]


def specialist_seconds(rows: int, val_rows: int) -> tuple[float, float]:
    """Seconds for one shard of `rows` rows: scores alone, and with the matrix of `val_rows` columns."""
    rng = np.random.default_rng(0)

    def unit(rows: int) -> np.ndarray:
        drawn = rng.standard_normal((rows, DIM), np.float32)
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)

    directions = unit(TASKS).astype(np.float32)
    validation = unit(val_rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_tensors(folder / "shard", {"grads": unit(rows)})
        shard = Shard("shard", 0, rows, len(written), checksum(written))
        begin = time.perf_counter()
        grads = shard.read(folder, "run it again")["grads"]
        influence_scores(grads, directions)
        scored = time.perf_counter()
        matrix = influence_matrix(grads, validation).astype(np.float16)
        write_tensors(folder / "matrix", {"influence": matrix})
        return scored - begin, time.perf_counter() - begin


MEBIBYTES = {24: 24_564, 40: 40_960, 80: 81_559, 141: 143_771}
"""A card's memory in GB -> in MiB, as its driver reports it."""


def budgets(own: Counts) -> list[tuple[str, ...]]:
    """Card | free memory | padded tokens of a batch (`gradients.tokens_per_batch: null`)."""
    shape = DecoderShape(32, 4096, 11008, 32, 32, 128, LoraConfig().r, 2)
    rows = []
    for name, mebibytes in MEBIBYTES.items():
        free = mebibytes * 2**20 - 0.5 * GIB - 2 * own.model - 6 * own.lora
        tokens = tokens_that_fit(free, token_bytes(shape))
        kept = tokens * token_bytes(shape)
        rows.append((f"{name} GB", f"{free / GIB:.1f} GiB", f"{tokens:,}", f"{kept / GIB:.1f} GiB"))
    return rows


def checksum_rates(count: int = 42_000_000, rounds: int = 7) -> tuple[float, float]:
    """GB a core checks in a second of its own time, by turns: with the shards' checksum, and with SHA-256."""
    content, seconds = np.random.default_rng(0).bytes(count), {checksum: np.inf, sha256: np.inf}
    for _ in range(rounds):
        for kind in seconds:
            begin = time.process_time()
            kind(content)
            seconds[kind] = min(seconds[kind], time.process_time() - begin)
    return count / seconds[checksum] / GB, count / seconds[sha256] / GB


def size(number: float) -> str:
    return f"{number / GB:,.1f} GB" if number >= 0.95 * GB else f"{number / 1e6:,.0f} MB"


def hours(number: float) -> str:
    return f"{number:.1f} h" if number >= 1 else f"{number * 60:.1f} min"


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=665_298, help="records of the training data")
    parser.add_argument("--data-gb", type=float, default=1.03, help="size of the data file")
    parser.add_argument("--tokens", type=int, default=700, help="mean length of a sample, image tokens counted in")
    parser.add_argument("--answer", type=int, default=50, help="of these, predicted")
    parser.add_argument("--tflops", type=float, default=790, help="10^12 operations a second of one GPU")
    parser.add_argument("--ms", type=float, help="measured milliseconds of one sample's gradient, instead of the floor")
    parser.add_argument("--specialist", action="store_true", help="measure stage 1 on this machine")
    parser.add_argument("--shard-rows", type=int, default=SHARD_ROWS, help="training rows that it is measured with")
    parser.add_argument("--val-rows", type=int, default=1000, help="validation rows that it is measured with")
    options = parser.parse_args()
    own = counts()
    gradient, step = gradient_flop(own, options.tokens, options.answer)
    print(f"{own.model:,} parameters, {own.lora:,} of LoRA, {own.projector:,} of the projector")
    print(f"{gradient / 1e12:.1f} TFLOP a gradient, {step / 1e12:.1f} TFLOP a sample in training\n")
    kept = disk(own, options.rows, options.data_gb * GB)
    print(table(("what", "made of", "disk"), [(name, how, size(number)) for name, how, number in kept]))
    head = ("a card of", "free with the model loaded", "tokens a batch", "kept for the backward pass")
    print("\nEstimated, not measured on a GPU:\n\n" + table(head, budgets(own)))
    samples = max(1, 10_986 // options.tokens)  # as an H100 of 80 GB takes them
    setting, sizes = llava_on_paper(), (samples, options.tokens, options.answer, DIM, LoraConfig().r)
    parts, unfused = (count_batch(setting, *sizes, fused=fused) for fused in (True, False))
    head = ("of one sample", "TFLOP", "GB", "launches a batch", *[f"ms, {card.name}" for card in CARDS])
    print(f"\nEstimated, not measured on a GPU; batches of {samples} samples of {options.tokens} tokens:\n")
    print(table(head, lines(parts, unfused, samples, gradient / (options.tflops * 1e12))))
    head = ("gradients.layers", "LoRA parameters", "TFLOP", "of all")
    cards = [each for card in CARDS for each in (f"ms, {card.name}", "of all")]
    print("\nThe last layers alone, of one sample; operations counted, times estimated, not measured on a GPU:\n")
    print(table((*head, *cards), lines_by_layers(setting, sizes)))
    head = ("stage", f"samples x {'measured' if options.ms else 'floor'}", "one GPU")
    stages = times(own, options.rows, options)
    print("\n" + table(head, [(name, how, hours(number)) for name, how, number in stages]))
    if options.specialist:
        alone, with_matrix = specialist_seconds(options.shard_rows, options.val_rows)
        shards = options.rows / options.shard_rows
        print("\n" + describe(circumstances(torch.device("cpu"))))
        print("the bytes are checked at {:.1f} GB/s of a core, by SHA-256 at {:.1f}".format(*checksum_rates()))
        print(
            f"`specialist`: scores {alone * shards:.0f} s; with matrices of {options.val_rows:,} validation samples "
            f"{with_matrix * shards:.0f} s"
        )


if __name__ == "__main__":
    main()
