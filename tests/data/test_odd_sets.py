"""Folders, tables and mixtures that are not quite what they seem: read right, or one line; never other rows."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icons.data import row_groups
from icons.data.records import Part
from icons.data.saved import SavedRecords
from icons.data.sets import data_digest, open_records
from icons.errors import BadRecordError, UserError
from tests.conftest import icons
from tests.data.test_sets import GPT, HUMAN, write_config
from tests.data.written import as_list, as_parquet

TURNS = {"conversations": [HUMAN, GPT]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows(first: int, count: int = 3) -> list[dict[str, Any]]:
    return [{"id": f"r{number}", **TURNS} for number in range(first, first + count)]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001-b42a775f407cee45", "test-00000-of-00001-0d4e1bb5e0e0c0de"),
        ("train", "dev"),
        ("train", "test", "other"),
    ],
)
def test_splits_are_never_merged(names: tuple[str, ...], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        as_parquet(tmp_path / name, rows(10 * number))
    with pytest.raises(UserError, match=r"holds the splits .*; say which with split"):
        open_records(tmp_path)
    assert [open_records([Part(tmp_path, split="train")])[row]["id"] for row in range(3)] == ["r0", "r1", "r2"]


def test_hidden_folders_are_left_out_and_links_followed(tmp_path: Path) -> None:
    for folder in ("set/a", "set/.ipynb_checkpoints", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    as_parquet(tmp_path / "set" / "a" / "one", rows(0))
    as_parquet(tmp_path / "set" / ".ipynb_checkpoints" / "one", rows(50))
    as_parquet(tmp_path / "elsewhere" / "two", rows(3))
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    opened = open_records(tmp_path / "set")
    assert [opened[row]["id"] for row in range(len(opened))] == [f"r{number}" for number in range(6)]
    assert opened.sha256 == data_digest(tmp_path / "set")
    (tmp_path / "set" / "c").symlink_to(tmp_path / "set")
    with pytest.raises(UserError, match="a link leads back to"):
        open_records(tmp_path / "set")


def test_a_split_where_there_is_none_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(0)).save_to_disk(str(tmp_path / "saved"))
    for path in (as_list(tmp_path / "a", rows(0)), as_parquet(tmp_path / "b", rows(0)), tmp_path / "saved"):
        with pytest.raises(UserError, match="no splits; leave split out"):
            open_records([Part(path, split="nonsense")])


def test_one_split_of_several_saved_and_an_empty_one_beside_it(tmp_path: Path) -> None:
    whole = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows(0)), "test": datasets.Dataset.from_list(rows(0)).select([])}
    )
    whole.save_to_disk(str(tmp_path / "saved"))
    assert len(open_records([Part(tmp_path / "saved", split="train")])) == 3
    with pytest.raises(UserError, match="holds several splits; say which with split: train, test"):
        open_records(tmp_path / "saved")


def test_what_lies_in_memory_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without files nothing would tell two datasets apart."""
    monkeypatch.setattr("icons.data.saved._of_disk", lambda part: datasets.Dataset.from_list(rows(0)))
    with pytest.raises(UserError, match="lies in memory alone"):
        SavedRecords(Part(tmp_path))


@pytest.mark.parametrize("kind", [pa.binary(4), pa.binary_view(), pa.struct([("picture", pa.binary())])])
def test_bytes_in_a_column_that_is_not_read_are_refused(kind: pa.DataType, tmp_path: Path) -> None:
    value = {"picture": b"abcd"} if pa.types.is_struct(kind) else b"abcd"
    table = pa.table({"conversations": [[HUMAN, GPT]], "pixels": pa.array([value], kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column 'pixels' holds bytes"):
        open_records(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "image", "image_path": "a.png"}, "an image part of message 0 has 'image_path'; read are image_url"),
        ({"type": "image", "source": {"type": "base64"}}, "an image part of message 0 has 'source'"),
        ({"type": "image"}, "1 image parts for 0 images under image or images"),
    ],
)
def test_an_image_part_has_an_image(part: dict[str, Any], said: str, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
    path = as_list(tmp_path / "a", [{"messages": [*messages, {"role": "assistant", "content": "This."}]}])
    with pytest.raises(BadRecordError, match=said):
        open_records(path)[0]


def test_files_of_old_and_new_writers_are_one_set(tmp_path: Path) -> None:
    """The path beside an image is another leaf of the file in each."""
    table = pa.Table.from_pylist([{**TURNS, "images": [{"bytes": b"x", "path": "a.png"}]}] * 2)
    pq.write_table(table, tmp_path / "a.parquet", use_compliant_nested_type=False)
    pq.write_table(table, tmp_path / "b.parquet")
    opened = open_records(tmp_path)
    assert [opened[row]["images"][0].endswith(":a.png") for row in range(4)] == [True] * 4


def test_a_value_that_cannot_be_had_is_a_bad_record(tmp_path: Path) -> None:
    told = pa.array([b"fine", b"\xff\xfe", b"fine"]).view(pa.string())
    times = pa.array([datetime(2026, 1, 1, tzinfo=timezone.utc)] * 3)
    table = pa.table({"conversations": [[HUMAN, GPT]] * 3, "note": told, "when": times})
    pq.write_table(table, tmp_path / "a.parquet")
    opened = open_records(tmp_path / "a.parquet")
    assert opened[0]["note"] == "fine"
    assert "when" not in opened[0]
    with pytest.raises(BadRecordError, match=r"a\.parquet row 1: a value cannot be read \("):
        opened[1]


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    opened = open_records(as_parquet(tmp_path / "a", rows(0)))
    (tmp_path / "a.parquet").unlink()
    for ask in (opened.require_unchanged, lambda: opened[0]):
        row_groups._start_anew()
        with pytest.raises(UserError, match=r"cannot be read .*moved while in use"):
            ask()


def test_a_small_table_does_not_push_out_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "KEPT_BYTES", 1000)
    row_groups._start_anew()
    table = pa.Table.from_pylist([{**TURNS, "image": {"bytes": b"x" * 500, "path": "a"}}] * 10)
    pq.write_table(table, tmp_path / "a.parquet")
    opened, reads = open_records(tmp_path / "a.parquet"), []
    read = row_groups.ParquetFile._read
    monkeypatch.setattr(
        row_groups.ParquetFile, "_read", lambda file, group, names: reads.append(names) or read(file, group, names)
    )
    for row in range(10):
        opened.image(row, 0, opened[row]["image"]).content()  # type: ignore[union-attr]
    assert reads.count(("image",)) == 1
    row_groups._start_anew()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- self.yaml\n", "line 1: self.yaml is a mixture file itself; list its files here"),
        ("- {json_path: a.json, data: b.json}\n", "line 1: expected a path under data"),
        ("- null\n", "line 1: expected a path under data, found None"),
    ],
)
def test_odd_mixture_files(text: str, said: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "self.yaml").write_text(text)
    outcome = icons("validate", write_config(tmp_path, tmp_path / "self.yaml", tiny_model))
    assert outcome.code == 2
    assert said in outcome.err


def test_a_log_that_cannot_be_one(tmp_path: Path) -> None:
    outcome = icons("--log", tmp_path, "status", tmp_path / "none.yaml")
    assert (outcome.code, outcome.err) == (2, f"error: --log {tmp_path}: not a regular file\n")


def test_records_without_ids_are_compared_by_their_pictures(tmp_path: Path) -> None:
    from tests.data.test_images import noise

    shown = []
    for number in range(4):
        noise(8, 8, number).save(tmp_path / f"{number}.png")
        content = (tmp_path / f"{number}.png").read_bytes()
        shown.append({**TURNS, "images": [{"bytes": content, "path": None}]})
    a, b = as_parquet(tmp_path / "a", shown), as_parquet(tmp_path / "b", shown[1:3])
    outcome = icons("compare", a, b, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["both"] == 2
