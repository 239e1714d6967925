"""Parquet with images: time to the first batch, memory, and what reading in a trainer's random order costs.

`python benchmarks/parquet.py` writes 200,000 rows in The Cauldron's columns, JPEG images in them, row groups of 100 as
`datasets` writes them, and measures each step in a process of its own. The same images in a folder, with a JSON file,
stand beside it. Images are decoded as for the tiny LLaVA, whose own cost is small.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image
from setting import circumstances, describe

from icons.models.tiny import build_tiny_llava

DIFFERENT = 500  # images; the same come again, with bytes of their own in every row
PROGRAM = """
import json, sys, time
from pathlib import Path
from random import Random
from icons.config import ModelConfig
from icons.data.batches import load_batches
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.models.formats import input_format
data, images, model = map(Path, sys.argv[1:4])
what, count = sys.argv[4], int(sys.argv[5])
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
own, start, found = peak(), time.perf_counter(), {}
records = open_records(data, images)
found["open_s"] = time.perf_counter() - start
source = DataSource(records, input_format(model, ModelConfig(base=str(model), device="cpu")))
middle = len(records) // 2
if what == "shard":
    rows = range(middle, min(middle + count, len(records)))
else:
    rng = Random(0)
    rows = sorted(rng.sample(range(len(records)), min(count, len(records))))
begin = time.perf_counter()
samples, bad = source.samples(rows)
assert not bad
found["samples_s"] = time.perf_counter() - begin
begin, seen = time.perf_counter(), 0
for batch, unreadable in load_batches(samples, source.inputs, 2048):
    assert batch is not None and not unreadable
    found.setdefault("first_batch_s", time.perf_counter() - start)
    seen += len(batch.rows)
found["rows_per_s"] = seen / (time.perf_counter() - begin)
found["peak_bytes_above_imports"] = peak() - own
print(json.dumps(found))
"""


def write_set(folder: Path, rows: int, side: int) -> tuple[Path, Path, Path]:
    """The Parquet folder, the JSON file beside its image folder."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(min(DIFFERENT, rows)):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((side, side)).save(file, "JPEG", quality=85)
        pictures.append(file.getvalue())
    table, plain, images = folder / "parquet", folder / "data.json", folder / "images"
    table.mkdir()
    images.mkdir()
    for number, content in enumerate(pictures):
        (images / f"{number}.jpg").write_bytes(content)
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = pa.struct([("user", pa.string()), ("assistant", pa.string())])
    schema = pa.schema([("id", pa.string()), ("images", pa.list_(cell)), ("texts", pa.list_(text))])
    at_once, records = 10_000, []
    for start in range(0, rows, at_once):
        path = table / f"train-{start // at_once:05d}-of-{-(-rows // at_once):05d}.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for row in range(start, min(start + at_once, rows), 100):
                part = []
                for each in range(row, min(row + 100, rows)):
                    content = pictures[each % len(pictures)] + each.to_bytes(8, "big")  # behind the image's end
                    words = " ".join(["word"] * (5 + each % 40))
                    texts = [{"user": f"What is {each}?", "assistant": words}]
                    part.append(
                        {"id": str(each), "images": [{"bytes": content, "path": f"{each}.jpg"}], "texts": texts}
                    )
                    records.append((each, words))
                writer.write_table(pa.Table.from_pylist(part, schema=schema), row_group_size=100)
    with plain.open("w") as file:
        for number, (each, words) in enumerate(records):
            turns = [{"from": "human", "value": f"<image>\nWhat is {each}?"}, {"from": "gpt", "value": words}]
            record = {"id": str(each), "image": f"{each % len(pictures)}.jpg", "conversations": turns}
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(record))
        file.write("\n]\n")
    return table, plain, images


def measured(*arguments: Any) -> dict[str, float]:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "process_s": time.perf_counter() - begin}


def main(
    rows: Annotated[int, typer.Option(help="Rows of the set.")] = 200_000,
    side: Annotated[int, typer.Option(help="Pixels a side of each image.")] = 256,
    count: Annotated[int, typer.Option(help="Rows of a shard, and of a random draw.")] = 2048,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
) -> None:
    facts = circumstances(torch.device("cpu"))
    print(describe(facts))
    with tempfile.TemporaryDirectory(prefix="icons-parquet-") as name:
        folder = Path(name)
        table, plain, images = write_set(folder, rows, side)
        model = folder / "model"
        build_tiny_llava(model)
        size = sum(path.stat().st_size for path in table.glob("*.parquet"))
        print(f"{rows} rows, Parquet {size / 1e9:.2f} GB in {len(list(table.glob('*.parquet')))} files\n")
        print(f"{'':<36}{'open, s':>9}{'first batch, s':>16}{'rows/s':>9}{'peak, MB':>10}")
        results: dict[str, Any] = {"rows": rows, "parquet_bytes": size}
        for label, data, what in (
            ("Parquet, first start, a shard", table, "shard"),
            ("Parquet, later start, a shard", table, "shard"),
            ("JSON and a folder, later, a shard", plain, "shard"),
            ("Parquet, rows in random order", table, "random"),
            ("JSON and a folder, random order", plain, "random"),
        ):
            if label == "JSON and a folder, later, a shard":
                measured(plain, images, model, "shard", 16)
            found = measured(data, images, model, what, count)
            results[label] = found
            print(
                f"{label:<36}{found['open_s']:>9.2f}{found['first_batch_s']:>16.2f}{found['rows_per_s']:>9.0f}"
                f"{found['peak_bytes_above_imports'] / 1e6:>10.0f}"
            )
    if json_file is not None:
        json_file.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
