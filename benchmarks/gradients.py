"""Samples per second of the gradient engine against the published loop, batch-1 autograd and a plain batched pass.

    python benchmarks/gradients.py [--json FILE] [--profile]
    python benchmarks/gradients.py --model llava-7b --device cuda --only bare --only "ours count_sketch" \\
        --tokens-per-batch 5800 --tokens-per-batch 8700 --tokens-per-batch 11600

published    batch 1, checkpointing, retain_graph, float16, dense Rademacher in blocks of 128 columns, four at a time
sequential   batch-1 autograd, no projection
ceiling      batched forward and backward as the library does it, no per-sample gradients; our batches
bare         ours without norms and rows: every per-sample gradient made and dropped (only where it is asked for)
ours         per-sample gradients, norms and rows on the host, with each projection (none: cosines with --tasks tasks)

All see the same samples, already encoded, decoded and on the device: reading data is no part of any time. Contestants
take turns in every round, the order changing; a rate is the median of the rounds, a ratio the median of the rounds'
ratios. One that runs out of memory leaves the race, which goes on; each budget of tokens is a race of its own. TFLOP/s
are the counted operations of our pass times the rate, and the share of the floor is that over the rate of a plain
product on the same device. The published loop is so slow that it gets `--published-samples` of the samples a round.

Peak memory is that of `icons train-grads` above a process that loads the model and stops there (tiny; the whole
pipeline, two counts of samples), or torch's own count above the weights (GPU; half of the batches, then all).
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from baselines import Baselines, forward_arguments
from memory import gpu_memory, host_memory
from roofline import counted_flop
from setting import (
    TINY_RANK,
    Setting,
    circumstances,
    decoded,
    describe,
    drawn_source,
    encoded,
    llava_7b,
    on_device,
    tiny_model,
)
from turns import Race, plain_rate, take_turns

from icons.data.batches import Batch
from icons.data.batching import plan_batches
from icons.demo.drawing import draw_vqa_set
from icons.gradients.kinds import PROJECTIONS
from icons.gradients.per_sample import backpropagate
from icons.gradients.projection import make_projector
from icons.gradients.rows import Rows, exact_rows, projected_rows
from icons.gradients.types import sgd
from icons.models.tiny import BENCHMARK
from icons.models.vlm import VisionLanguageModel

Engine = Callable[[Batch], object]


class Model(str, Enum):
    tiny = "tiny"
    llava_7b = "llava-7b"


def on_host(rows: Rows, dtype: torch.dtype) -> object:
    """As a shard takes them."""
    return rows.values_BD.to(dtype).cpu(), rows.norms_B.cpu(), rows.losses.mean_B.cpu(), rows.losses.tokens_B.cpu()


def sketched(model: VisionLanguageModel, kind: str, dim: int) -> Engine:
    """Ours with a random projection: rows, norms and losses of a batch."""
    pairs, projector = model.lora_pairs(), make_projector(kind, dim, 0)
    return lambda batch: on_host(projected_rows(model.forward_pass(pairs, batch), projector, sgd), torch.float16)


def exact(model: VisionLanguageModel, tasks: int) -> Engine:
    """Ours without a projection: exact cosines with the mean gradients of `tasks` tasks, here random ones."""
    pairs, generator = model.lora_pairs(), torch.Generator(model.device).manual_seed(0)
    shapes = {name: (tasks, weight.numel()) for pair in pairs for name, weight in pair.tensors}
    options = {"generator": generator, "device": model.device, "dtype": model.base.dtype}
    directions = {name: torch.randn(shape, **options) for name, shape in shapes.items()}
    return lambda batch: on_host(exact_rows(model.forward_pass(pairs, batch), directions, sgd), torch.float32)


def engines(model: VisionLanguageModel, dim: int, tasks: int) -> dict[str, Engine]:
    """Ours by projection."""
    return {
        **{kind: sketched(model, kind, dim) for kind in sorted(PROJECTIONS)},
        "none": exact(model, tasks),
    }


def bare_pass(model: VisionLanguageModel) -> Engine:
    """Forward and backward with every per-sample gradient made and dropped: no norm, no projection, no rows."""
    pairs = model.lora_pairs()
    return lambda batch: backpropagate(model.forward_pass(pairs, batch), lambda name, grads: None)


def race(
    setting: Setting, dim: int, tasks: int, tokens_per_batch: int, rounds: int, published: int, only: Sequence[str] = ()
) -> tuple[Race, list[Batch]]:
    """The race of all contestants but "bare", or of those in `only`, and the batches they saw."""
    model, samples = setting.model, setting.samples
    device, dtype, pad = model.device, model.base.dtype, model.inputs.pad_token_id
    plan = plan_batches([sample.length for sample in samples], tokens_per_batch)
    chosen = [[samples[position] for position in batch] for batch in plan]
    batches = [on_device(setting.collate(batch), device, dtype) for batch in chosen]
    alone = [on_device(setting.collate([sample]), device, dtype) for sample in samples]
    singles = [forward_arguments([s], batch, pad) for s, batch in zip(samples, alone, strict=True)]
    padded = [forward_arguments(group, batch, pad) for group, batch in zip(chosen, batches, strict=True)]
    few = singles[:: max(1, len(singles) // published)][:published] if published else []
    baselines = Baselines.of(model)

    def counted(work: Callable[[], object], count: int) -> Callable[[], int]:
        return lambda: (work(), count)[1]

    contestants = {
        "sequential": counted(lambda: baselines.sequential(singles), len(samples)),
        "ceiling": counted(lambda: baselines.ceiling(padded), len(samples)),
    }
    if few:
        contestants["published"] = counted(lambda: baselines.published(few, dim), len(few))
    for kind, engine in engines(model, dim, tasks).items():
        contestants[f"ours {kind}"] = counted(lambda engine=engine: [engine(batch) for batch in batches], len(samples))
    if only:
        bare = bare_pass(model)
        contestants["bare"] = counted(lambda: [bare(batch) for batch in batches], len(samples))
        contestants = {name: contestant for name, contestant in contestants.items() if name in only}
    return take_turns(contestants, rounds, device), batches


def share_outside(model: VisionLanguageModel, dim: int, batch: Batch, repeats: int = 9) -> float:
    """Share of a batch's time that is norms, projection, unit rows and copies: what `bare_pass` does without."""
    engine, bare = sketched(model, "count_sketch", dim), bare_pass(model)
    contestants = {"engine": lambda: (engine(batch), 1)[1], "bare": lambda: (bare(batch), 1)[1]}
    rates = take_turns(contestants, repeats, model.device).rates
    return 1 - statistics.median(whole / part for whole, part in zip(rates["engine"], rates["bare"], strict=True))


def print_profile(model: VisionLanguageModel, dim: int, batch: Batch) -> None:
    """torch.profiler on one batch with count_sketch."""
    engine = sketched(model, "count_sketch", dim)
    engine(batch)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if model.device.type == "cuda" else []
    with torch.profiler.profile(activities=activities) as profile:
        engine(batch)
    order = "self_cuda_time_total" if model.device.type == "cuda" else "self_cpu_time_total"
    typer.echo(profile.key_averages().table(sort_by=order, row_limit=16, max_name_column_width=48))


def main(
    model: Annotated[Model, typer.Option(help="tiny: 5 million parameters; llava-7b: random weights, built")] = "tiny",
    device: Annotated[str, typer.Option(help="cpu, or cuda for llava-7b")] = "cpu",
    samples: int = 96,
    tokens_per_batch: Annotated[list[int], typer.Option(help="may be given several times")] = [2048],  # noqa: B006
    only: Annotated[list[str], typer.Option(help="a contestant's name; may be given several times")] = [],  # noqa: B006
    dim: int = 5120,
    tasks: Annotated[int, typer.Option(help="target tasks of the exact scores (projection none)")] = 10,
    rounds: int = 5,
    threads: Annotated[int | None, typer.Option(help="of torch on the CPU; default: its own choice")] = None,
    published_samples: Annotated[int, typer.Option(help="a round; 0 leaves the published loop out")] = 4,
    memory: Annotated[bool, typer.Option(help="measure peak memory")] = True,
    profile: Annotated[bool, typer.Option(help="print torch.profiler's table of one batch")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Race the gradient engine against the published loop, batch-1 autograd and a plain batched pass."""
    where = torch.device(device)
    if model is Model.tiny and where.type != "cpu":
        raise typer.BadParameter("the tiny model runs on the CPU", param_hint="--device")
    if threads is not None:
        torch.set_num_threads(threads)
    facts = circumstances(where)
    typer.echo(describe(facts))
    settings = {"model": model.value, "samples": samples, "dim": dim, "tasks": tasks}
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setting = tiny_setting(folder, samples) if model is Model.tiny else llava_7b(where, samples)
        plain = plain_rate(where, setting.model.base.dtype)
        typer.echo(f"plain products: {plain:.3g} TFLOP/s")
        for budget in tokens_per_batch:
            ran, batches = race(setting, dim, tasks, budget, rounds, published_samples, only)
            shapes = ", ".join(f"{tuple(batch.input_ids.shape)}" for batch in batches[:6])
            more = ", ..." if len(batches) > 6 else ""
            typer.echo(f"\n{budget} tokens: {samples} samples in {len(batches)} batches: {shapes}{more}\n")
            result = summary(ran, samples, _flop(setting.model, batches), plain) | {"tokens_per_batch": budget}
            result |= {"share_outside_forward_backward": None, "peak_memory_bytes": {}}
            if not only:
                result["share_outside_forward_backward"] = share_outside(setting.model, dim, batches[0])
            if memory and where.type == "cuda" and not ran.out_of_memory:
                result["peak_memory_bytes"] = gpu_memory(sketched(setting.model, "count_sketch", dim), batches)
            elif memory and model is Model.tiny and Path("/proc/self/status").exists():
                result["peak_memory_bytes"] = host_memory(folder, (samples, 4 * samples), budget, dim)
            print_summary(result)
            results.append(result)
        if profile:
            print_profile(setting.model, dim, batches[0])
    if json_file is not None:
        settings |= {"rounds": rounds, "published_samples": published_samples, "tokens_per_batch": tokens_per_batch}
        content = {**results[0], "budgets": results, "plain_tflops": plain, "settings": settings, **facts}
        json_file.write_text(json.dumps(content, indent=1) + "\n")


def _flop(model: VisionLanguageModel, batches: list[Batch]) -> float | None:
    """Operations of our pass over the batches; None where memory runs out."""
    bare = bare_pass(model)
    try:
        return counted_flop(lambda: [bare(batch) for batch in batches])
    except torch.OutOfMemoryError:
        return None


def tiny_setting(folder: Path, count: int) -> Setting:
    """The benchmark-sized tiny LLaVA and drawn records of mixed lengths, a tenth of them without an image."""
    model = tiny_model(folder, BENCHMARK, TINY_RANK)
    source = drawn_source(model, draw_vqa_set(folder / "data", train_records=count, val_records=1))
    return Setting(model, encoded(source), lambda samples: decoded(source, samples))


def summary(race: Race, samples: int, flop: float | None, plain: float) -> dict[str, Any]:
    """Medians of rates and of the rounds' ratios; of ours and the bare pass TFLOP/s and the share of the floor too."""
    rates = race.rates
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = {name.removeprefix("ours "): value for name, value in medians.items() if name.startswith("ours ")}
    baselines = {name: medians.get(name) for name in ("published", "sequential", "ceiling")}
    ratios = {
        f"{kind} / {name}": statistics.median(a / b for a, b in zip(rates[f"ours {kind}"], rates[name], strict=True))
        for kind in ours
        for name, value in baselines.items()
        if value is not None
    }
    tflops = {name: flop / samples * rate / 1e12 for name, rate in medians.items() if flop and _is_ours(name)}
    return {
        **{f"{name}_per_s": value for name, value in baselines.items()},
        "bare_per_s": medians.get("bare"),
        "ours_per_s": ours,
        "ratios": ratios,
        "tflops": tflops,
        "share_of_floor": {name: value / plain for name, value in tflops.items()},
        "out_of_memory": race.out_of_memory,
        "reserved_bytes": race.reserved_bytes,
        "alloc_retries": race.retries,
        "rates_by_round": rates,
    }


def _is_ours(name: str) -> bool:
    return name == "bare" or name.startswith("ours ")


def print_summary(result: dict[str, Any]) -> None:
    rows = [(name, name, result[f"{name}_per_s"]) for name in ("published", "sequential", "ceiling", "bare")]
    rows += [(f"ours {kind}", f"ours, {kind}", rate) for kind, rate in result["ours_per_s"].items()]
    for name, shown, rate in rows:
        if name in result["out_of_memory"] or rate is None:
            typer.echo(f"{shown:<22} " + ("out of memory" if name in result["out_of_memory"] else "not measured"))
            continue
        line = f"{shown:<22} {rate:10.2f} samples/s  {1e3 / rate:10.1f} ms"
        if name in result["tflops"]:
            line += f"  {result['tflops'][name]:.3g} TFLOP/s, {result['share_of_floor'][name]:.0%} of plain products"
        if name in result["reserved_bytes"]:
            line += (
                f"  {result['reserved_bytes'][name] / 2**30:.1f} GiB reserved, {result['alloc_retries'][name]} retries"
            )
        typer.echo(line)
    for name in result["out_of_memory"]:
        if name not in {row[0] for row in rows}:
            typer.echo(f"{name.replace(' ', ', ', 1):<22} out of memory")
    typer.echo("")
    for name, ratio in result["ratios"].items():
        typer.echo(f"{name:<28} {ratio:8.2f}")
    if result["share_outside_forward_backward"] is not None:
        share = result["share_outside_forward_backward"]
        typer.echo(f"time outside forward and backward (count_sketch): {share:.1%}")
    for count, peak in result["peak_memory_bytes"].items():
        typer.echo(f"peak memory above the model's own at {count} samples: {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    typer.run(main)
