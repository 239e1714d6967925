"""icons against other programs that make projected per-sample gradients of a LoRA adapter, on the same text model.

    python benchmarks/peers.py --install [--folder .peers]
    python benchmarks/peers.py [--json FILE]

icons             count sketch, `--dim` numbers a sample
bergson           `collect_gradients`: a two-sided Rademacher projection of each LoRA matrix to width x width numbers
bergson global    the same with one dense projection to `--dim` numbers (only where it is asked for: it takes minutes)
dattri-llm        `HookManager` over a loop with icons' batches: LoGRA, two-sided too, width x width numbers a matrix
autograd          one sample at a time, no padding, gradients dropped
autograd sketch   the same, projected by icons' count sketch
products          no contestant: the products and attention of icons' pass, launched again with nothing between them
icons before      icons as it is in another checkout (`--before FOLDER`)

The width is the smallest whose total is `--dim` or more. The model is a Llama with random weights and LoRA on every
linear layer of its decoder, float32 on the CPU; lengths are spread evenly on a logarithmic scale, and the last part
(`--share`) of each sample is to be predicted. Loss, labels and budget of padded tokens are the same for all. Each
contestant is a process that loads once, makes all rows once untimed (a projection's matrices are then there), and takes
its turn in every round, alone, the order changing. Samples a second are of CPU seconds, which other work on the machine
disturbs least; ratios are medians of the rounds' ratios. Peak memory is resident bytes above the loaded model. The
error is the root mean square of the difference of all pairs' cosines to those of whole gradients by autograd.

`--install` makes the peers' environment, 1.5 GB, from a package index: benchmarks/peer_programs/requirements.txt.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any, NoReturn

import numpy as np
import torch
import typer
from setting import circumstances, describe

from icons.data.batching import plan_batches

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "peer_programs"
REQUIREMENTS = PROGRAMS / "requirements.txt"
BEFORE = "icons before"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Kind:
    """A contestant: its program, whether it needs the peers' environment, and options of its own."""

    program: str
    foreign: bool = False
    options: dict[str, str] = field(default_factory=dict)
    always: bool = True
    compared: bool = True  # its rows stand for gradients
    holds: bool = True  # its memory is that of making them


KINDS = {
    "icons": Kind("icons_rows.py"),
    "bergson": Kind("bergson_rows.py", foreign=True, options={"projection": "per_module"}),
    "bergson global": Kind("bergson_rows.py", foreign=True, options={"projection": "global"}, always=False),
    "dattri-llm": Kind("dattri_rows.py", foreign=True),
    "autograd": Kind("autograd_rows.py", options={"keep": "nothing"}, compared=False),
    "autograd sketch": Kind("autograd_rows.py", options={"keep": "sketch"}),
    "products": Kind("products_rows.py", compared=False, holds=False),
    BEFORE: Kind("icons_rows.py", always=False),
}
EXACT = Kind("autograd_rows.py", options={"keep": "cosines"})


def install(folder: Path) -> None:
    """The peers' environment, made anew unless it is there at these versions. Raises CalledProcessError."""
    if is_installed(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch_line = next(line for line in REQUIREMENTS.read_text().splitlines() if line.startswith("torch=="))
    # torch comes first and pinned: left to the resolver it may bring a build of several gigabytes.
    subprocess.run([*pip, torch_line], check=True)
    subprocess.run([*pip, "--no-deps", "-r", REQUIREMENTS], check=True)
    shutil.copyfile(REQUIREMENTS, folder / "versions.txt")


def is_installed(folder: Path) -> bool:
    stamp = folder / "versions.txt"  # written last
    return stamp.is_file() and stamp.read_bytes() == REQUIREMENTS.read_bytes()


class Contestant:
    """A process of `peer_programs`, which loads and then waits for its turns."""

    def __init__(self, name: str, python: Path | str, kind: Kind, folder: Path, options: dict[str, Any]) -> None:
        self.name, self._log = name, folder / f"{name.replace(' ', '-')}.log"
        own = {key: value for key, value in os.environ.items() if not kind.foreign or not key.startswith("PYTHON")}
        if name == BEFORE:
            own["PYTHONPATH"] = options["before"]
        own |= {"OMP_NUM_THREADS": str(options["threads"]), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), str(PROGRAMS / kind.program), str(folder), json.dumps(options | kind.options)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=own,
            )  # fmt: skip

    def loaded(self) -> dict[str, str]:
        """Waits until it is, and asked once: the versions of its packages."""
        versions: dict[str, str] = self._answer()["versions"]
        return versions

    def turn(self, rows: Path | None = None) -> dict[str, Any]:
        """All samples once; what it took. The rows are written to a .npy file if one is named."""
        assert self._process.stdin is not None
        print("round" if rows is None else rows, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._failed()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failed(self) -> NoReturn:
        self._process.wait()
        raise RuntimeError(f"{self.name} ended:\n{self._log.read_text()[-3000:]}")


def draw(folder: Path, count: int, shortest: int, longest: int, share: float, shape: dict[str, int], rank: int) -> int:
    """Writes model, adapter and samples to `folder`; the number of LoRA matrices."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=4096))
    base.save_pretrained(folder / "model")
    base.name_or_path = base.config._name_or_path = str(folder / "model")
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS)))
    matrices = 0
    for name, weight in model.named_parameters():
        matrices += "lora_" in name
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)  # a fresh B is zero, and so every gradient of A would be
    model.peft_config["default"].base_model_name_or_path = str(folder / "model")
    model.save_pretrained(folder / "adapter")
    rng, vocab = Random(0), shape["vocab_size"]
    drawn = []
    for _ in range(count):
        length = round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
        ids = [5 + int((vocab - 5) * rng.random() ** 3) for _ in range(length)]  # some tokens are common, as in a text
        prompt = min(length - 1, round(length * (1 - share)))
        drawn.append({"input_ids": ids, "labels": [*[-100] * prompt, *ids[prompt:]]})
    (folder / "samples.json").write_text(json.dumps(drawn))
    return matrices


def cosine_error(rows: np.ndarray, cosines: np.ndarray) -> float:
    """Root mean square over pairs of different samples."""
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    above = np.triu_indices(len(unit), 1)
    return float(np.sqrt(np.mean(((unit @ unit.T) - cosines)[above] ** 2)))


def race(
    names: list[str], folder: Path, options: dict[str, Any], foreign: Path, rounds: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """What each contestant took, round by round, its memory, error and dimension; versions of all."""
    pythons = {name: foreign / "bin" / "python" if KINDS[name].foreign else sys.executable for name in names}
    exact = Contestant("exact", sys.executable, EXACT, folder, options)
    running = {name: Contestant(name, pythons[name], KINDS[name], folder, options) for name in names}
    versions: dict[str, str] = {}
    for contestant in (exact, *running.values()):
        versions |= contestant.loaded()
    exact.turn(folder / "exact.npy")
    exact.end()
    cosines = np.load(folder / "exact.npy")
    contestants: dict[str, Any] = {}
    for name, contestant in running.items():
        path = folder / f"{name}.npy"
        first = contestant.turn(path)
        compared = KINDS[name].compared
        error = cosine_error(np.load(path), cosines) if compared else None
        dim = first["shape"][1] if compared else None
        contestants[name] = {"dim": dim, "cosine_rmse": error, "first_cpu_s": first["cpu_s"], "cpu_s": [], "wall_s": []}
    for turn in range(rounds):
        for name in sorted(running, reverse=turn % 2 == 1):
            took = running[name].turn()
            for key in ("cpu_s", "wall_s"):
                contestants[name][key].append(took[key])
            contestants[name]["peak_bytes"] = took["peak_bytes"] if KINDS[name].holds else None
    for contestant in running.values():
        contestant.end()
    return contestants, versions


def summarise(contestants: dict[str, Any], samples: int) -> None:
    """Adds rates and, of every contestant but icons, how many times its CPU seconds icons' are contained in them."""
    for name, one in contestants.items():
        one["samples_per_cpu_s"] = samples / statistics.median(one["cpu_s"])
        one["samples_per_s"] = samples / statistics.median(one["wall_s"])
        if name != "icons" and "icons" in contestants:
            pairs = zip(one["cpu_s"], contestants["icons"]["cpu_s"], strict=True)
            one["icons_times_as_fast"] = statistics.median(theirs / ours for theirs, ours in pairs)


def show(contestants: dict[str, Any]) -> None:
    head = f"{'':<16}{'samples/CPU s':>14}{'samples/s':>11}{'icons is':>10}{'peak MiB':>10}{'d':>7}{'RMSE':>9}"
    typer.echo(head)
    for name, one in contestants.items():
        ratio = f"{one['icons_times_as_fast']:.2f} x" if "icons_times_as_fast" in one else ""
        error = f"{one['cosine_rmse']:.4f}" if one["cosine_rmse"] is not None else ""
        peak = f"{one['peak_bytes'] / 2**20:.0f}" if one["peak_bytes"] is not None else ""
        typer.echo(
            f"{name:<16}{one['samples_per_cpu_s']:>14.2f}{one['samples_per_s']:>11.2f}{ratio:>10}"
            f"{peak:>10}{one['dim'] or '':>7}{error:>9}"
        )


def main(
    do_install: Annotated[bool, typer.Option("--install", help="make the peers' environment, and stop")] = False,
    folder: Annotated[Path, typer.Option(help="of the peers' environment")] = Path(".peers"),
    only: Annotated[list[str], typer.Option(help="a contestant's name; may be given several times")] = [],  # noqa: B006
    samples: int = 96,
    shortest: Annotated[int, typer.Option(help="tokens of the shortest sample")] = 20,
    longest: Annotated[int, typer.Option(help="tokens of the longest sample")] = 300,
    share: Annotated[float, typer.Option(help="of a sample's tokens that is to be predicted")] = 0.5,
    hidden: int = 256,
    layers: int = 6,
    vocab: int = 4096,
    rank: int = 16,
    dim: int = 5120,
    tokens_per_batch: int = 2048,
    threads: int = 1,
    rounds: int = 5,
    before: Annotated[Path | None, typer.Option(help="a checkout of icons that takes part as 'icons before'")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Race icons, bergson, dattri-llm and plain autograd on per-sample gradients of a LoRA adapter."""
    if do_install:
        install(folder)
        typer.echo(f"the peers are installed in {folder}")
        return
    if unknown := sorted(set(only) - set(KINDS)):
        raise typer.BadParameter(f"{unknown[0]}: expected one of {', '.join(KINDS)}", param_hint="--only")
    names = [name for name, kind in KINDS.items() if (name in only if only else kind.always)]
    if before is not None and BEFORE not in names:
        names.append(BEFORE)
    if before is None and BEFORE in names:
        raise typer.BadParameter(f"{BEFORE} needs --before", param_hint="--only")
    missing = [] if is_installed(folder) else [name for name in names if KINDS[name].foreign]
    facts = circumstances(torch.device("cpu"))
    facts["hardware"]["torch_threads"] = threads
    typer.echo(describe(facts))
    if missing:
        typer.echo(f"left out: {', '.join(missing)}: not installed in {folder}; --install does that")
    shape = {
        "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": hidden * 43 // 16,
        "num_hidden_layers": layers, "num_attention_heads": max(1, hidden // 64),
        "num_key_value_heads": max(1, hidden // 64),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        matrices = draw(place, samples, shortest, longest, share, shape, rank)
        lengths = [len(sample["input_ids"]) for sample in json.loads((place / "samples.json").read_text())]
        width = math.isqrt(max(0, -(-dim // matrices) - 1)) + 1
        options = {"dim": dim, "width": width, "threads": threads, "tokens_per_batch": tokens_per_batch}
        options["batches"] = plan_batches(lengths, tokens_per_batch)
        options["before"] = str(before.absolute()) if before is not None else ""
        typer.echo(
            f"{samples} samples, {sum(lengths)} tokens, {matrices} LoRA matrices, width {width}, "
            f"{len(options['batches'])} batches\n"
        )
        contestants = [name for name in names if name not in missing]
        results, versions = race(contestants, place, options, folder.absolute(), rounds)
    summarise(results, samples)
    show(results)
    if json_file is not None:
        settings = {"samples": samples, "shortest": shortest, "longest": longest, "share": share, "rank": rank}
        settings |= {"tokens": sum(lengths), "matrices": matrices, "width": width, "dim": dim, "rounds": rounds}
        settings |= {"tokens_per_batch": tokens_per_batch, "model": shape}
        facts["versions"] |= versions
        json_file.write_text(json.dumps({"contestants": results, "settings": settings, **facts}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
