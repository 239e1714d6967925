"""The report at full size: time, peak memory and size of the page for 665,298 generated rows.

    python benchmarks/report.py [--rows 665298] [--folder DIR] [--json FILE]

Writes what a finished run leaves that the report reads: a data file like LLaVA-665K's (its sources, in their shares),
images of a photograph's size, scores for ten tasks, shards with few gradient columns, and selections by three methods.
Then `icons report`, twice, in processes of their own, the page cache dropped before each where that is allowed.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from PIL import Image
from selection import icons, shown
from setting import circumstances, describe

from icons.config_file import load_config
from icons.models.tiny import TINY, build_tiny_llava
from icons.store.fingerprint import file_digest
from icons.store.index import Index, write_index
from icons.store.layout import RunFolder
from icons.store.rows import RowWriter, Shard
from icons.store.scores import Scores, write_scores

# Thousands of LLaVA-665K's records by image folder (arXiv 2310.03744, table 7); further answers in a record, made up.
SOURCES = {
    "coco/train2017": (364, 3.5),
    "vg": (86, 5.0),
    "ocr_vqa": (80, 4.0),
    "gqa": (72, 7.0),
    "": (40, 2.0),
    "textvqa": (22, 0.2),
}
TASKS, DIM, SHARD, PICTURES = 10, 8, 4096, 200
TEXT = "the a person holding small dog near table two cups of coffee and bright red window light"


def main(
    rows: Annotated[int, typer.Option(help="training rows")] = 665_298,
    folder: Annotated[Path | None, typer.Option(help="where the run is made, and left; default: temporary")] = None,
    warm: Annotated[bool, typer.Option("--warm", help="leave the page cache alone")] = False,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there too")] = None,
) -> None:
    """Measure the report at full size."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        path = make_run(root, rows)
        size = (root / "train.json").stat().st_size
        typer.echo(f"\n{rows:,} rows, {TASKS} tasks, data file {size / 1e9:.2f} GB\n")
        for method in ("vote", "mean", "random"):
            icons("generalist", path, "--set", f"selection.method={method}", cold=not warm)
        found: dict[str, Any] = {"rows": rows, "data_bytes": size}
        found["report"] = shown("report", icons("report", path, cold=not warm))
        found["again"] = shown("report, nothing changed", icons("report", path, cold=not warm))
        page = RunFolder(load_config(path).output_dir).report / "index.html"
        found["page_bytes"] = page.stat().st_size
        found["figures_bytes"] = sum(file.stat().st_size for file in (page.parent / "figures").iterdir())
        typer.echo(f"page {found['page_bytes'] / 1e6:.2f} MB, figures {found['figures_bytes'] / 1e6:.2f} MB")
    if results:
        results.write_text(json.dumps(facts | {"results": found}, indent=1) + "\n")


def make_run(root: Path, rows: int) -> Path:
    """A run folder as far as the report reads it; its config file."""
    root.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    drawn = np.random.default_rng(0)
    make_pictures(root / "images", drawn)
    make_data(root / "train.json", rows, drawn)
    record = {"conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "three"}]}
    (root / "val.json").write_text(json.dumps([record]))
    build_tiny_llava(root / "model", size=TINY)
    names = [f"task{number}" for number in range(TASKS)]
    raw = {
        "output_dir": "run",
        "model": {"base": "./model", "dtype": "float32", "device": "cpu"},
        "train": {"data": "train.json", "images": "images"},
        "tasks": [{"name": name, "data": "val.json"} for name in names],
    }
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    run, data = RunFolder(load_config(path).output_dir), file_digest(root / "train.json")[:16]
    norms, losses = drawn.lognormal(0, 0.6, (2, rows)).astype(np.float32)
    make_rows(run, rows, data, norms, losses, drawn)
    common = drawn.standard_normal((rows, 3), dtype=np.float32)  # what the tasks share
    scores = common @ drawn.standard_normal((3, TASKS), dtype=np.float32)
    scores += drawn.standard_normal((rows, TASKS), dtype=np.float32)
    scores *= 0.01
    valid = np.ones(rows, np.bool_)
    write_scores(run.scores, Scores(scores, valid, scores.mean(axis=1), losses, norms, names, "0" * 16, data, {}))
    typer.echo(f"made in {time.monotonic() - begin:.0f} s")
    return path


def make_pictures(folder: Path, drawn: np.random.Generator) -> None:
    """JPEG files of a photograph's size, under every source's folder."""
    for number in range(PICTURES):
        small = drawn.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
        for source in filter(None, SOURCES):
            (folder / source).mkdir(parents=True, exist_ok=True)
            picture.save(folder / source / f"{number:012d}.jpg", quality=90)


def make_data(path: Path, rows: int, drawn: np.random.Generator) -> None:
    """One JSON list, as LLaVA-665K is."""
    counts = np.array([count for count, _ in SOURCES.values()], float)
    kinds = drawn.choice(len(SOURCES), rows, p=counts / counts.sum())
    texts = [" ".join(drawn.choice(TEXT.split(), length)) for length in drawn.integers(4, 40, 997)]
    answers = drawn.poisson([list(SOURCES.values())[kind][1] for kind in kinds]) + 1
    folders = list(SOURCES)
    with path.open("w") as file:
        for row, (kind, count) in enumerate(zip(kinds.tolist(), answers.tolist(), strict=True)):
            folder = folders[kind]
            record: dict[str, Any] = {"id": f"{row:012d}"}
            if folder:
                record["image"] = f"{folder}/{row % PICTURES:012d}.jpg"
            record["conversations"] = [
                {"from": ("human", "gpt")[turn % 2], "value": texts[(row * 31 + turn) % len(texts)]}
                for turn in range(2 * count)
            ]
            if folder:
                first = record["conversations"][0]
                first["value"] = f"<image>\n{first['value']}"
            file.write((",\n" if row else "[") + json.dumps(record))
        file.write("]\n")


def make_rows(
    run: RunFolder, rows: int, data: str, norms: np.ndarray[Any, Any], losses: np.ndarray[Any, Any],
    drawn: np.random.Generator,
) -> None:  # fmt: skip
    """One chunk of shards with a manifest and an index."""
    writer = RowWriter(run.chunk("final", 0, 1), 0, rows, {"data": data, "num_rows": rows, "dim": DIM})
    tokens = np.minimum(drawn.lognormal(4, 1.2, rows), 1900).astype(np.int32) + 1
    for start in range(0, rows, SHARD):
        stop = min(start + SHARD, rows)
        tensors = {
            "rows": np.arange(start, stop),
            "grads": drawn.standard_normal((stop - start, DIM), dtype=np.float32).astype(np.float16),
            "norms": norms[start:stop],
            "losses": losses[start:stop],
            "target_tokens": tokens[start:stop],
            "valid": np.ones(stop - start, np.bool_),
        }
        writer.append(tensors, start, stop, 0, [], 0.1)
    folder = run.index("final").parent
    shards = [
        Shard(f"{writer.folder.name}/{s.file}", s.start, s.stop, s.bytes, s.checksum) for s in writer.manifest.shards
    ]
    write_index(run.index("final"), Index(rows, writer.manifest.fingerprint, shards, folder))


if __name__ == "__main__":
    typer.run(main)
