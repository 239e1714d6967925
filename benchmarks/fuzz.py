"""Odd inputs by the thousand: is each one taken, or refused in one line?

    python benchmarks/fuzz.py [--cases 500] [--kinds records,images,config,folders] [--seed 0] [--json FILE]

Each case takes a sound record, image, config file or model folder and changes it at a few places: a value of another
type, a number out of range, a deleted key, flipped or cut bytes, a header that lies. It is read in a process of its own
with a limit on time and memory. Outcomes: taken, refused (a UserError of one line), and the three that must not be:
crashed (any other exception), hung, killed (out of memory, a signal). Of a record that is taken, every label must be
the id at its place, and there must be one.
"""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from PIL import Image
from setting import circumstances, describe

from icons.config import ModelConfig
from icons.config_file import load_config
from icons.data.formats import InputFormat
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.data.tokens import IGNORE
from icons.demo.drawing import draw_vqa_set
from icons.errors import UserError
from icons.models.formats import input_format
from icons.models.loading import load_base
from icons.models.tiny import build_tiny_llava

SECONDS, BYTES = 60.0, 4 << 30  # wide: other work may slow a case down tenfold
FORMATS = ("png", "jpeg", "gif", "webp", "tiff", "bmp")
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf")),
    *("", " ", "x", "0", "\0", "\ud800", "\x1b[2J", "../../etc/passwd", "/dev/zero", "a" * 5000),
    *("<image>", "<image>" * 50, "</s>", [], {}, [[]], [None], {"a": {}}),
)


@dataclass(frozen=True)
class Ground:
    """What the cases are made from: the folder of a drawn set and a tiny model, and the model's format."""

    root: Path
    inputs: InputFormat
    records: list[dict[str, Any]]
    images: dict[str, bytes]
    config: dict[str, Any]


def main(
    cases: Annotated[int, typer.Option(help="of each kind")] = 500,
    kinds: str = "records,images,config,folders",
    seed: int = 0,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there too")] = None,
) -> None:
    """Read odd inputs and count what becomes of them."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    torch.set_num_threads(1)
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        ground = prepare(Path(name))
        for kind in kinds.split(","):
            begin = time.monotonic()
            counts[kind] = Counter()
            for case in range(cases):
                outcome, text = attempt(MAKERS[kind], ground, f"{seed} {kind} {case}")
                counts[kind][outcome] += 1
                if outcome not in ("taken", "refused"):
                    typer.echo(f"  {kind} case {case}: {outcome}: {text}")
            seconds = time.monotonic() - begin
            typer.echo(f"{kind:<10} {dict(sorted(counts[kind].items()))}, {seconds:.0f} s")
    if results:
        by_kind = {kind: dict(sorted(counter.items())) for kind, counter in counts.items()}
        results.write_text(json.dumps(facts | {"seed": seed, "results": by_kind}, indent=1) + "\n")
    if any(counter.keys() - {"taken", "refused"} for counter in counts.values()):
        raise typer.Exit(1)


def prepare(root: Path) -> Ground:
    drawn = draw_vqa_set(root / "data", train_records=20, val_records=2)
    build_tiny_llava(root / "model")
    tasks = [{"name": n, "data": str(path), "images": str(drawn.images)} for n, path in drawn.tasks.items()]
    config = {
        "output_dir": "run",
        "model": {"base": "./model", "dtype": "float32", "device": "cpu", "lora": {"r": 4, "alpha": 8}},
        "train": {"data": "data/train.json", "images": "data/images", "num_chunks": 3},
        "warmup": {"fraction": 0.3, "max_steps": 8, "batch_size": 4, "learning_rate": 1.0e-3},
        "tasks": tasks[:2],
        "gradients": {"dim": 512, "shard_rows": 8, "checkpoints": ["final"], "checkpoint_weights": [1.0]},
        "selection": {"method": "vote", "percent": 20, "options": {}},
    }
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    images = {}
    for form in FORMATS:
        file = io.BytesIO()
        noise.save(file, form)
        images[form] = file.getvalue()
    inputs = input_format(root / "model", ModelConfig(base=str(root / "model")))
    return Ground(root, inputs, json.loads(drawn.train.read_text()), images, config)


def attempt(make: Callable[[Ground, random.Random], None], ground: Ground, name: str) -> tuple[str, str]:
    """The case of that name in a forked process: its outcome, and what it said."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_in_child, args=(make, ground, name, theirs))
    process.start()
    theirs.close()
    answer: tuple[str, str] | None = None
    if ours.poll(SECONDS):
        with suppress(EOFError, OSError):  # it died without a word
            answer = ours.recv()
        process.join()
        return answer or ("killed", f"exit code {process.exitcode}")
    process.kill()
    process.join()
    return "hung", f"no end in {SECONDS:g} s"


def _in_child(make: Callable[[Ground, random.Random], None], ground: Ground, name: str, pipe: Connection) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    try:
        make(ground, random.Random(name))
        answer = ("taken", "")
    except UserError as error:
        lines = [line for line in str(error).split("\n") if line]
        long = [line for line in lines if len(line) > 2000]
        answer = ("refused", lines[0][:200]) if lines and not long else ("crashed", "an empty or endless message")
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        answer = ("crashed", f"{type(error).__name__}: {str(error)[:150]} ({where.filename}:{where.lineno})")
    pipe.send(answer)
    pipe.close()
    os._exit(0)


def odd_record(ground: Ground, rng: random.Random) -> None:
    record = copy.deepcopy(rng.choice(ground.records))
    for _ in range(rng.randint(1, 3)):
        record = changed(record, rng)
    folder = Path(tempfile.mkdtemp(dir=ground.root))
    try:
        text = json.dumps(record)
        path = folder / "data.json"
        path.write_text(f"[{text}]" if rng.random() < 0.7 else text + "\n")
        source = DataSource(open_records(path, ground.root / "data" / "images"), ground.inputs)
        samples, bad = source.samples(range(len(source.records)))
        for sample in samples:
            labelled = [place for place, label in enumerate(sample.tokens.labels) if label != IGNORE]
            assert labelled
            assert all(sample.tokens.labels[place] == sample.tokens.ids[place] for place in labelled)
            for image in sample.images:
                ground.inputs.image_inputs(image)
        if bad:
            raise UserError(bad[0].reason)
    finally:
        shutil.rmtree(folder)


def odd_image(ground: Ground, rng: random.Random) -> None:
    form = rng.choice(FORMATS)
    path = Path(tempfile.mkdtemp(dir=ground.root)) / f"image.{form}"
    try:
        if rng.random() < 0.3:
            sizes = (1, 2, 3, 200, 5000, 14_000, 60_000)
            mode = rng.choice(("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "I", "F"))
            try:
                Image.new(mode, (rng.choice(sizes), rng.choice(sizes[:4]))).save(path, form)
            except (OSError, ValueError, KeyError):
                path.write_bytes(b"")
        else:
            path.write_bytes(changed_bytes(ground.images[form], rng))
        ground.inputs.image_inputs(path)
    finally:
        shutil.rmtree(path.parent)


def odd_config(ground: Ground, rng: random.Random) -> None:
    content = copy.deepcopy(ground.config)
    for _ in range(rng.randint(1, 3)):
        content = changed(content, rng)
    path = ground.root / f"{os.getpid()}.yaml"
    try:
        text = yaml.safe_dump(content)
    except yaml.YAMLError:
        text = json.dumps(content)
    if rng.random() < 0.4:
        text = changed_bytes(text.encode("utf-8", "replace"), rng).decode("latin-1")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(path)
    finally:
        path.unlink()


def odd_folder(ground: Ground, rng: random.Random) -> None:
    folder = Path(tempfile.mkdtemp(dir=ground.root)) / "model"
    shutil.copytree(ground.root / "model", folder)
    try:
        path = rng.choice(sorted(folder.iterdir()))
        if path.suffix == ".json" and rng.random() < 0.7:
            path.write_text(json.dumps(changed(json.loads(path.read_text()), rng)))
        else:
            path.write_bytes(changed_bytes(path.read_bytes(), rng))
        model = load_base(ModelConfig(base=str(folder), dtype="float32", device="cpu"))
        record = ground.root / "data" / "train.json"
        DataSource(open_records(record, ground.root / "data" / "images"), model.inputs).samples(range(2))
    finally:
        shutil.rmtree(folder.parent)


MAKERS = {"records": odd_record, "images": odd_image, "config": odd_config, "folders": odd_folder}


def changed(value: Any, rng: random.Random) -> Any:
    """The value with one place in it changed: another value, a key gone, doubled or renamed, an element moved."""
    places = [((), value)]
    for path, node in places:
        inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        places += [((*path, key), each) for key, each in list(inner)[:200]]
    path, node = rng.choice(places[1:] or places)
    if not path:
        return copy.deepcopy(rng.choice(ODD))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    how = rng.random()
    if how < 0.65:
        parent[path[-1]] = copy.deepcopy(rng.choice(ODD))
    elif how < 0.75 and isinstance(node, str):
        at = rng.randint(0, len(node))
        parent[path[-1]] = (
            node[:at] + rng.choice(("<image>", "\n", "\x00", "USER:", "ASSISTANT:", "</s>", "é")) + node[at:]
        )
    elif how < 0.85:
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[rng.choice(("image", "images", "video", "system", "loss", "x", "model", "name"))] = parent.pop(path[-1])
    else:
        parent.insert(rng.randint(0, len(parent)), copy.deepcopy(node))
    return value


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, or set to the numbers that headers lie with."""
    result = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, len(result))) if rng.random() < 0.5 else rng.randrange(min(64, max(1, len(result))))
        how = rng.choice(("flip", "set", "cut", "double", "number"))
        if not result:
            break
        if how == "flip":
            result[at] ^= 1 << rng.randrange(8)
        elif how == "set":
            result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif how == "cut":
            del result[at : at + rng.choice((1, 4, 64, len(result)))]
        elif how == "double":
            result[at:at] = result[at : at + rng.choice((1, 16, 256))]
        else:
            result[at : at + 4] = rng.choice((2**31 - 1, 2**32 - 1, 65_535, 60_000, 0)).to_bytes(
                4, rng.choice(("big", "little"))
            )  # type: ignore[arg-type]
    return bytes(result)


if __name__ == "__main__":
    typer.run(main)
