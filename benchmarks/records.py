"""Start-up of an array task on a large data file: scanning it every time against its offset index.

    python benchmarks/records.py [--records N] [--list-records N] [--file FILE] [--json FILE]

Writes LLaVA-format JSON lines (or reads --file), then opens them in fresh processes: as it was before there was an
index (every line found and the whole file hashed at every start), with the first start's index, and with the index
there. Each process reports its seconds (imports not counted) and how far its peak resident memory rose above that of
the imported package; the same at a tenth of the records, and for a JSON list. Last, the seconds from the start of a
process to the first batch of an `icons train-grads` task, imports and image decoding included, in the tiny model's
format. The file has just been written, so it comes from the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from setting import circumstances, describe

from icons.data.index import FOLDER
from icons.models.tiny import build_tiny_llava

FOLDERS = ("coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K", None)
IMAGES = 64
WORDS = ("the", "a", "red", "table", "left", "right", "street", "what", "is", "color", "number", "sign", "dog", "of")

PRELUDE = """
import hashlib, json, sys, time
from array import array
from pathlib import Path
from random import Random
from icons.data.sets import open_records
from icons.store.fingerprint import file_digest
path = Path(sys.argv[1])
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
own, start, found = peak(), time.perf_counter(), {}
"""
SCAN = """
total = hashlib.sha256()
with path.open("rb") as file:
    while block := file.read(1 << 22):
        total.update(block)
if path.suffix == ".json":
    kept = json.loads(path.read_bytes())
else:
    kept, position = array("q"), 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                kept.append(position)
            position += len(line)
found["open_s"] = time.perf_counter() - start
"""
INDEXED = """
records = open_records(path)
file_digest(path)
found["open_s"] = time.perf_counter() - start
records[len(records) // 2]
found["first_record_s"] = time.perf_counter() - start
rng = Random(0)
for _ in range(1000):
    records[rng.randrange(len(records))]
found["first_1000_random_records_s"] = time.perf_counter() - start
"""
REPORT = """
found["peak_bytes_above_imports"] = peak() - own
print(json.dumps(found))
"""
FIRST_BATCH = """
import json, sys
from pathlib import Path
from icons.config import ModelConfig
from icons.data.batches import load_batches
from icons.data.records import chunk_range
from icons.data.sets import open_records
from icons.data.samples import DataSource
from icons.models.formats import input_format
from icons.store.fingerprint import file_digest
path, model, images = map(Path, sys.argv[1:])
records = open_records(path, images)
file_digest(path)
source = DataSource(records, input_format(model, ModelConfig(base=str(model), device="cpu")))
start, stop = chunk_range(len(records), 200, 100)
samples, bad = source.samples(range(start, min(start + 256, stop)))
batch, unreadable = next(iter(load_batches(samples, source.inputs, 2048)))
assert batch is not None and not bad and not unreadable
print(json.dumps({"samples": len(batch.rows)}))
"""


def made_up(count: int) -> Iterator[dict[str, Any]]:
    """Records as in LLaVA-665K: five in six have an image, one to six rounds of question and answer."""
    rng = Random(0)
    for row in range(count):
        folder = FOLDERS[row % len(FOLDERS)]
        turns = []
        for turn in range(rng.randint(1, 6)):
            tag = "<image>\n" if turn == 0 and folder else ""
            turns.append({"from": "human", "value": tag + " ".join(rng.choices(WORDS, k=rng.randint(5, 25))) + "?"})
            turns.append({"from": "gpt", "value": " ".join(rng.choices(WORDS, k=rng.randint(1, 60))) + "\u2009."})
        image = {"image": f"{folder}/{row % IMAGES:012d}.jpg"} if folder else {}
        yield {"id": f"{row:012d}", **image, "conversations": turns}


def write_records(path: Path, count: int) -> None:
    """The first few thousand differ, then they repeat with new ids: what matters here is how many bytes lie where."""
    different = [json.dumps(record, ensure_ascii=False) for record in made_up(min(count, 6_000))]
    as_list = path.suffix == ".json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n" if as_list else "")
        for row in range(count):
            text = different[row % len(different)].replace(f"{row % len(different):012d}", f"{row:012d}", 1)
            last = row == count - 1
            file.write(text + (",\n" if as_list and not last else "\n"))
        file.write("]\n" if as_list else "")


def draw_images(folder: Path) -> None:
    for name in filter(None, FOLDERS):
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES):
            Image.new("RGB", (640, 480), (number, 90, 120)).save(folder / name / f"{number:012d}.jpg")


def measured(program: str, *arguments: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "process_s": time.perf_counter() - begin}


def remove_index(path: Path) -> None:
    (path.parent / FOLDER / f"{path.name}.safetensors").unlink(missing_ok=True)


def starts(path: Path) -> dict[str, Any]:
    """Old way, first start, and the middle of five later starts."""
    remove_index(path)
    old = measured(PRELUDE + SCAN + REPORT, path)
    first = measured(PRELUDE + INDEXED + REPORT, path)
    later = sorted((measured(PRELUDE + INDEXED + REPORT, path) for _ in range(5)), key=lambda found: found["open_s"])[2]
    index = path.parent / FOLDER / f"{path.name}.safetensors"
    return {
        "file_bytes": path.stat().st_size,
        "index_bytes": index.stat().st_size if index.is_file() else 0,
        "scan_every_time": old,
        "first_start": first,
        "later_start": later,
        "open_ratio": old["open_s"] / later["open_s"],
        "peak_ratio": old["peak_bytes_above_imports"] / max(1, later["peak_bytes_above_imports"]),
    }


def first_batches(path: Path, folder: Path) -> dict[str, Any]:
    model = folder / "model"
    build_tiny_llava(model)
    draw_images(folder / "images")
    remove_index(path)
    first = measured(FIRST_BATCH, path, model, folder / "images")
    later = [measured(FIRST_BATCH, path, model, folder / "images") for _ in range(3)]
    return {"first_start": first, "later_start": sorted(later, key=lambda found: found["process_s"])[1]}


def main(
    records: Annotated[int, typer.Option(help="JSON lines to write.")] = 2_000_000,
    list_records: Annotated[int, typer.Option(help="Records of the JSON list; 0: none.")] = 665_000,
    file: Annotated[Path | None, typer.Option(help="A data file of your own instead; no first batch then.")] = None,
    first_batch: Annotated[bool, typer.Option(help="Also time the first batch.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results there.")] = None,
) -> None:
    facts = circumstances(torch.device("cpu"))
    print(describe(facts))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="icons-records-") as name:
        folder = Path(name)
        if file is not None:
            results[file.name] = starts(file)
            show(file.name, results[file.name])
        wanted = [] if file is not None else [("jsonl", records), ("json", list_records)]
        for suffix, count in wanted:
            for size in dict.fromkeys((count // 10, count)) if count else ():
                path = folder / f"{size}.{suffix}"
                write_records(path, size)
                label = f"{size} records, JSON {'lines' if suffix == 'jsonl' else 'list'}"
                results[label] = starts(path)
                show(label, results[label])
                if first_batch and suffix == "jsonl" and size == count:
                    results["first batch"] = first_batches(path, folder)
                    for when, found in results["first batch"].items():
                        print(f"first batch, {when.replace('_', ' ')}: {found['process_s']:.2f} s from process start")
                path.unlink()
    if json_file is not None:
        json_file.write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")


def show(label: str, found: dict[str, Any]) -> None:
    print(f"\n{label}: {found['file_bytes'] / 1e6:.0f} MB, index {found['index_bytes'] / 1e6:.2f} MB")
    print(f"{'':<18}{'open, s':>10}{'1st record':>12}{'1000 random':>13}{'peak, MB':>10}")
    for name in ("scan_every_time", "first_start", "later_start"):
        row = found[name]
        times = [row.get(key) for key in ("first_record_s", "first_1000_random_records_s")]
        cells = ["-" if value is None else f"{value:.3f}" for value in times]
        peak = row["peak_bytes_above_imports"] / 1e6
        print(f"{name.replace('_', ' '):<18}{row['open_s']:>10.3f}{cells[0]:>12}{cells[1]:>13}{peak:>10.1f}")
    print(f"a later start opens {found['open_ratio']:.0f} times faster, with 1/{found['peak_ratio']:.0f} of the memory")


if __name__ == "__main__":
    typer.run(main)
