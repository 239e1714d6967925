"""Every format of data: the same records come out, whatever they lie in; what is wrong is said with file and row."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from icons.config import ModelConfig
from icons.data.records import Part, Records
from icons.data.samples import DataSource
from icons.data.sets import data_digest, open_records
from icons.errors import BadRecordError, UserError
from icons.models.formats import input_format
from tests.conftest import Project, icons, project_config
from tests.data.written import FORMATS, as_list, as_parquet, cauldron, embedded, messages

HUMAN, GPT = {"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}
SHOWN = {"from": "human", "value": "<image>"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def records(drawn: Path) -> list[dict[str, Any]]:
    kept = json.loads((drawn / "data" / "train.json").read_text())[:24]
    assert any("image" not in record for record in kept)
    return [{key: record[key] for key in ("id", "image", "conversations") if key in record} for record in kept]


def samples_of(records: Records, model: Path) -> list[Any]:
    """Ids, labels and pixels of every record."""
    source = DataSource(records, input_format(model, ModelConfig(base=str(model), device="cpu")))
    samples, bad = source.samples(range(len(records)))
    assert not bad
    seen = []
    for sample in samples:
        pixels = [source.inputs.image_inputs(image)["pixel_values"] for image in sample.images]
        seen.append((sample.row, sample.tokens.ids, sample.tokens.labels, pixels))
    return seen


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert [sample[:3] for sample in found] == [sample[:3] for sample in expected]
    for (*_, here), (*_, there) in zip(found, expected, strict=True):
        assert len(here) == len(there)
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_gives_the_same_ids_labels_and_pixels_in_every_format(
    name: str, records: list[dict[str, Any]], drawn: Path, tiny_model: Path, tmp_path: Path
) -> None:
    images = drawn / "data" / "images"
    plain = open_records(as_list(tmp_path / "plain", records), images)
    folder = None if "bytes" in name or name.startswith("OneVision") else images
    written = open_records(FORMATS[name](tmp_path / "other", records, images), folder)
    assert_same(samples_of(written, tiny_model), samples_of(plain, tiny_model))
    again = pickle.loads(pickle.dumps(written))
    assert again.sha256 == written.sha256
    assert again[3] == written[3]
    assert [written[row].get("id") for row in range(len(written))] == [record["id"] for record in records]


def test_a_mixture_counts_its_rows_through_and_says_where_each_comes_from(
    records: list[dict[str, Any]], drawn: Path, tiny_model: Path, tmp_path: Path
) -> None:
    images = drawn / "data" / "images"
    folder = tmp_path / "parquet"
    folder.mkdir()
    as_parquet(folder / "train-00000-of-00002", embedded([cauldron(r) for r in records[8:12]], images), 3)
    as_parquet(folder / "train-00001-of-00002", embedded([cauldron(r) for r in records[12:16]], images), 3)
    mixed = [
        Part(as_list(tmp_path / "first", records[:8]), images),
        Part(folder),
        Part(as_list(tmp_path / "third", [messages(r) for r in records[16:]]), images, source="spoken"),
    ]
    opened = open_records(mixed)
    plain = open_records(as_list(tmp_path / "plain", records), images)
    assert_same(samples_of(opened, tiny_model), samples_of(plain, tiny_model))
    assert [opened[row]["source"] for row in (0, 8, 23)] == ["first", "parquet", "spoken"]
    name = f"{folder / 'train-00001-of-00002.parquet'} row 1 (13 of all) (id '{records[13]['id']}')"
    assert opened.where(13, opened[13]) == name
    assert opened.where(16) == f"{tmp_path / 'third.json'} row 0 (16 of all)"
    assert opened.sha256 == data_digest(mixed) != data_digest(mixed[::-1])


def test_a_run_over_a_mixture_of_three_formats_selects_as_over_one_file(
    finished: Project, drawn: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The same rows in another container: the same scores, and the same rows selected."""
    records = json.loads((drawn / "data" / "train.json").read_text())
    images = drawn / "data" / "images"
    shutil.copytree(drawn / "data", tmp_path / "data")
    project = Project(tmp_path, project_config(tmp_path, tiny_model))
    as_list(tmp_path / "data" / "a", records[:40])
    as_parquet(tmp_path / "data" / "b", embedded([cauldron(r) for r in records[40:70]], images))
    as_list(tmp_path / "data" / "c", [messages(r) for r in records[70:]])
    (tmp_path / "mixture.yaml").write_text("- data/a.json\n- {data: data/b.parquet, source: drawn}\n- data/c.json\n")
    project.raw["train"] = {"data": "mixture.yaml", "images": "data/images", "num_chunks": 3}
    project.raw["model"]["adapter"] = str(finished.run / "warmup" / "final")
    project.save()
    outcome = project.icons("run")
    assert outcome.code == 0, outcome.err
    assert "`icons export` writes those that are selected" in outcome.err + outcome.out
    chosen = [
        json.loads((run / "selection" / "vote-20" / "selected_indices.json").read_text())["indices"]
        for run in (finished.run, project.run)
    ]
    assert chosen[0] == chosen[1]
    assert not (project.run / "selection" / "vote-20" / "selected_data.json").exists()
    assert "already done" in project.icons("generalist").out
    for command in (["report"], ["validate"], ["inspect", "--row", "55"], ["status"]):
        outcome = project.icons(*command)
        assert outcome.code == 0, outcome.err
    inspected = project.icons("inspect", "--row", "55").out
    assert f"{tmp_path / 'data' / 'b.parquet'} row 15 (55 of all)" in inspected


def test_broken_image_bytes_are_named_by_file_row_group_and_row(
    records: list[dict[str, Any]], drawn: Path, tiny_model: Path, tmp_path: Path
) -> None:
    rows = embedded([record for record in records if "image" in record], drawn / "data" / "images")
    rows[9]["image"] = {"bytes": b"no picture", "path": "a.png"}
    rows[12]["image"] = {"bytes": rows[12]["image"]["bytes"][:60], "path": "b.png"}
    rows[13]["image"] = {"bytes": None, "path": None}
    path = as_parquet(tmp_path / "data", rows, 4)
    outcome = icons("validate", write_config(tmp_path, path, tiny_model))
    lines = (line for line in outcome.out.splitlines() if line.startswith(f"{path} row"))
    told = sorted(lines, key=lambda line: int(line.split(" row ")[1].split()[0]))
    assert outcome.code == 2
    assert len(told) == 3
    assert f"{path} row 9 (id '{rows[9]['id']}'): image '0 of row 9 (row group 2) in {path}' is not an image" in told[0]
    assert "row group 3" in told[1]
    assert "cannot be decoded" in told[1]
    assert "neither bytes nor a path" in told[2]


def test_a_damaged_page_spoils_its_row_group_alone(records: list[dict[str, Any]], drawn: Path, tmp_path: Path) -> None:
    rows = embedded([record for record in records if "image" in record], drawn / "data" / "images")
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    at = content.find(rows[5]["id"].encode())
    content[at] ^= 0xFF
    path.write_bytes(content)
    opened = open_records(path)
    assert opened[0]["id"] == rows[0]["id"]
    assert opened[8]["id"] == rows[8]["id"]
    with pytest.raises(BadRecordError, match=r"data\.parquet row 5: row group 1 cannot be read \("):
        opened[5]


def test_a_parquet_file_that_is_replaced_in_use_is_told(records: list[dict[str, Any]], tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "data", records)
    opened = open_records(path)
    as_parquet(tmp_path / "new", records[1:]).rename(path)
    with pytest.raises(UserError, match="changed while it was read"):
        opened.require_unchanged()
    with pytest.raises(UserError, match="replaced by another file"):
        pickle.loads(pickle.dumps(opened))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "a", "answer": "b"}], "records with 'question', 'answer' are of no form that is read"),
        ([{"messages": [], "conversations": []}], "may be of the form llava or messages; say which with format"),
        ([{"messages": [{"role": "tool", "content": "x"}]}], "unknown role 'tool' in message 0; expected system, user"),
        ([{"messages": [{"role": "user"}]}], "message 0 has no content; expected a text or a list of parts"),
        ([{"messages": [{"role": "user", "content": [{"type": "audio"}]}]}], "expected one of type text or image"),
        ([{"messages": [HUMAN], "tools": "x"}], "message 0 has no role"),
        ([{"instruction": "", "input": "", "output": "b"}], "no instruction and no input"),
        ([{"instruction": "a", "output": 3}], "output is 3; expected a text"),
        ([{"texts": [{"user": "a"}], "images": []}], "text 0 is {'user': 'a'}; expected"),
        ([{"conversations": [SHOWN, GPT], "image": "http://x/y.png"}], "is an address; images are read from files"),
        ([{"conversations": [SHOWN, GPT], "image": "data:image/png;base64,!"}], "no data"),
    ],
)  # fmt: skip
def test_what_no_format_has_is_one_line(rows: list[Any], said: str, tiny_model: Path, tmp_path: Path) -> None:
    outcome = icons("validate", write_config(tmp_path, as_list(tmp_path / "data", rows), tiny_model))
    assert outcome.code == 2
    (line,) = [line for line in outcome.out.splitlines() if said in line]
    assert line.startswith(str(tmp_path / "data.json"))


def test_a_mixture_file_is_refused_with_its_line(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text("datasets:\n- json_path: a.json\n  sampling_strategy: first:10%\n")
    outcome = icons("validate", write_config(tmp_path, tmp_path / "mix.yaml", tiny_model))
    assert outcome.code == 2
    assert f"{tmp_path / 'mix.yaml'} line 2: sampling_strategy 'first:10%'; a file is taken whole here" in outcome.err
    (tmp_path / "mix.yaml").write_text("- a.json\n- {data: b.json, imagse: c}\n")
    outcome = icons("validate", write_config(tmp_path, tmp_path / "mix.yaml", tiny_model))
    assert "mix.yaml line 2: 1.imagse: " in outcome.err
    assert "known here: data, images, format" in outcome.err


def test_a_folder_with_several_splits_asks_which(records: list[dict[str, Any]], tmp_path: Path) -> None:
    for split in ("train", "test"):
        as_parquet(tmp_path / f"{split}-00000-of-00001", records)
    with pytest.raises(UserError, match="holds the splits test, train; say which with split"):
        open_records(tmp_path)
    assert len(open_records([Part(tmp_path, split="test")])) == len(records)
    with pytest.raises(UserError, match="no split 'dev'; there are test, train"):
        open_records([Part(tmp_path, split="dev")])


def write_config(root: Path, data: Path, model: Path) -> Path:
    task = as_list(root / "task", [{"conversations": [HUMAN, GPT]}])
    (root / "images").mkdir(exist_ok=True)
    config = {
        "output_dir": "run", "model": {"base": str(model), "device": "cpu", "lora": {"r": 4}},
        "train": {"data": str(data), "images": "images"}, "tasks": [{"name": "one", "data": str(task)}],
        "gradients": {"dim": 64},
    }  # fmt: skip
    (root / "config.yaml").write_text(json.dumps(config))
    return root / "config.yaml"


def test_a_large_parquet_file_is_digested_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icons.data.row_groups.SMALL", 0)
    path = as_parquet(tmp_path / "data", [{"id": "a" * 4000, "conversations": [HUMAN, GPT]}] * 5)
    first = open_records(path)
    assert (tmp_path / ".icons-cache" / "data.parquet.safetensors").is_file()
    monkeypatch.setattr("icons.data.index._scan", lambda *_: pytest.fail("read again"))
    assert open_records(path).sha256 == first.sha256 == data_digest(path)


def test_without_a_network_the_hub_is_one_line(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    config = write_config(tmp_path, Path("hf:owner/name/subset"), tiny_model)
    outcome = icons("validate", config)
    assert outcome.code == 2
    assert "hf:owner/name/subset: cannot be read as a dataset (" in outcome.out
