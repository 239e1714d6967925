"""The same records in every form and container that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

Record = dict[str, Any]
ROLES = {"human": "user", "gpt": "assistant"}


def messages(record: Record) -> Record:
    """Texts with tags, as LLaMA-Factory and ms-swift have them."""
    turns = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in record["conversations"]]
    return {"id": record["id"], "messages": turns, **({"images": [record["image"]]} if "image" in record else {})}


def parts(record: Record) -> Record:
    """OpenAI's parts, the image's path in its own."""
    turns = []
    for turn in record["conversations"]:
        text = turn["value"].removeprefix("<image>\n")
        image = [{"type": "image_url", "image_url": {"url": record["image"]}}] if text != turn["value"] else []
        turns.append({"role": ROLES[turn["from"]], "content": [*image, {"type": "text", "text": text}]})
    return {"id": record["id"], "messages": turns}


def alpaca(record: Record) -> Record:
    *before, question, answer = (turn["value"] for turn in record["conversations"])
    pairs = [[before[at], before[at + 1]] for at in range(0, len(before), 2)]
    first, _, rest = question.partition("\n") if not pairs and "<image>" not in question else (question, "", "")
    return {
        "id": record["id"], "instruction": first, "input": rest, "output": answer, "history": pairs,
        **({"images": [record["image"]]} if "image" in record else {}),
    }  # fmt: skip


def cauldron(record: Record) -> Record:
    values = [turn["value"].removeprefix("<image>\n") for turn in record["conversations"]]
    texts = [{"user": values[at], "assistant": values[at + 1]} for at in range(0, len(values), 2)]
    return {"id": record["id"], "images": [record["image"]] if "image" in record else [], "texts": texts}


def llava(record: Record) -> Record:
    return record


def as_list(path: Path, records: list[Record]) -> Path:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(records))
    return path


def as_lines(path: Path, records: list[Record]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def embedded(records: list[Record], images: Path) -> list[Record]:
    """Paths replaced by Hugging Face's bytes and path."""

    def cell(name: str) -> Record:
        return {"bytes": (images / name).read_bytes(), "path": Path(name).name}

    rows = []
    for record in records:
        row = dict(record)
        if "image" in row or not row.get("images", True):
            row["image"] = cell(row["image"]) if "image" in row else None
        if "images" in row:
            row["images"] = [cell(name) for name in row["images"]]
            row.pop("image", None)
        rows.append(row)
    return rows


def as_parquet(path: Path, rows: list[Record], group: int = 7) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def as_saved(path: Path, rows: list[Record]) -> Path:
    """With the Image feature, as datasets of the Hub have it."""
    table = pa.Table.from_pylist(rows)
    features = datasets.Features.from_arrow_schema(table.schema)
    for name in ("image", "images"):
        if name in features:
            features[name] = datasets.Image() if name == "image" else datasets.List(datasets.Image())
    datasets.Dataset(table).cast(features).save_to_disk(str(path))
    return path


Writer = Callable[[Path, list[Record], Path], Path]
FORMATS: dict[str, Writer] = {
    "llava list": lambda path, records, images: as_list(path, records),
    "llava lines": lambda path, records, images: as_lines(path, records),
    "messages with tags": lambda path, records, images: as_list(path, [messages(r) for r in records]),
    "messages with parts": lambda path, records, images: as_lines(path, [parts(r) for r in records]),
    "alpaca": lambda path, records, images: as_list(path, [alpaca(r) for r in records]),
    "cauldron in JSON": lambda path, records, images: as_lines(path, [cauldron(r) for r in records]),
    "OneVision in Parquet": lambda path, records, images: as_parquet(path, embedded(records, images)),
    "cauldron in Parquet": lambda path, records, images: as_parquet(
        path, embedded([cauldron(r) for r in records], images)
    ),
    "messages in Parquet": lambda path, records, images: as_parquet(
        path, embedded([messages(r) | {"images": messages(r).get("images", [])} for r in records], images)
    ),
    "paths in Parquet": lambda path, records, images: as_parquet(path, records),
    "bare bytes in Parquet": lambda path, records, images: as_parquet(
        path, [r | {"image": (images / r["image"]).read_bytes() if "image" in r else None} for r in records]
    ),
    "OneVision saved to disk": lambda path, records, images: as_saved(path, embedded(records, images)),
    "cauldron saved to disk": lambda path, records, images: as_saved(
        path, embedded([cauldron(r) for r in records], images)
    ),
}
