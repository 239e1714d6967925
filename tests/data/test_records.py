"""Random access to data files of any size: what is found, what is read for it, and when an index is not believed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch.utils.data import DataLoader

from icons.data.index import FOLDER, SMALL
from icons.data.records import Records
from icons.data.scan import Kind, record_offsets
from icons.data.sets import open_records
from icons.errors import BadRecordError, UserError
from icons.store.fingerprint import file_digest
from tests.conftest import ROOT, Project
from tests.reference.selection import read_rows
from tests.warm import ran

ODD = [
    '}{][,"',
    'back\\slash \\" quote',
    "\u65e5\u672c\u8a9e \U0001f600",
    "line\nbreak\ttab\r",
    "",
    "\u2028\x85\x0b",
    " ",
]
COUNT = 90

WRITERS = {
    "lines": (b"", b"\n", b"\n", None),
    "lines with CRLF, blank lines and a BOM": (b"\xef\xbb\xbf", b"\r\n\r\n \t\r\n", b"\r\n\r\n", None),
    "lines without a last newline": (b"\n\n", b"\n", b"", None),
    "list on one line": (b"[", b",", b"]", None),
    "list, indented, CRLF and a BOM": (b"\xef\xbb\xbf\r\n [\r\n", b" ,\r\n\t", b"\r\n]\r\n ", 2),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def some_records(count: int = COUNT, length: int = SMALL // 80) -> list[dict[str, Any]]:
    """Records of uneven length, together larger than what gets no index."""
    return [
        {
            "id": f"r-{i}",
            "text": ODD[i % len(ODD)] * (i % 5),
            "nested": [{"a": [1.5, None, i]}],
            "pad": "\u00e9x" * (length // 3 + i),
        }
        for i in range(count)
    ]


def write(path: Path, records: list[Any], form: str = "lines", *, ascii_only: bool = False) -> Path:
    start, between, end, indent = WRITERS[form]
    texts = [json.dumps(record, ensure_ascii=ascii_only, indent=indent).encode() for record in records]
    path.write_bytes(start + between.join(texts) + end)
    return path


def index_of(path: Path) -> Path:
    return path.parent / FOLDER / f"{path.name}.safetensors"


def bytes_read() -> int:
    """Bytes that this process has asked the system for so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def in_pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("form", WRITERS)
def test_every_record_of_a_large_file_is_found_at_every_start(form: str, ascii_only: bool, tmp_path: Path) -> None:
    records = some_records()
    path = write(tmp_path / "data", records, form, ascii_only=ascii_only)
    assert path.stat().st_size > SMALL
    for _ in range(2):
        opened = open_records(path)
        assert len(opened) == COUNT
        assert [opened[row] for row in reversed(range(COUNT))] == records[::-1]
        assert opened[-1] == records[-1]
        assert list(opened) == records  # type: ignore[call-overload]
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    offsets = load_file(index_of(path))["offsets"]
    assert (offsets.dtype, len(offsets)) == (np.int64, COUNT + 1)


LISTS = [
    b"[]", b" [ ] ", b"[1,23, 4.5e3 ,true,null]", b'["a]\\"}", {"b": "[,"}, [[], {}]]',
    b'\xef\xbb\xbf["\xc3\xa9",\r\n"\xf0\x9f\x98\x80"]\n', b'["\xed\xa0\x80"]', b"[NaN, -1]",
    b"[12", b"[1,]", b"[1 2]", b"[1]x", b"[,1]", b"", b"{}", b'["\xc3"]', b'["\x80a"]', b'["a', b"[1.]", b'["\t"]',
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("content", LISTS)
def test_a_list_is_cut_where_the_json_module_cuts_it(content: bytes, size: int) -> None:
    try:
        expected = json.loads(content)
        assert isinstance(expected, list)
    except (ValueError, AssertionError):
        with pytest.raises((ValueError, RecursionError)):
            list(record_offsets("list", in_pieces(content, size)))
        return
    offsets = np.concatenate(list(record_offsets("list", in_pieces(content, size)))).tolist()
    spans = [content[start:stop] for start, stop in pairwise(offsets)]
    found = [json.JSONDecoder().raw_decode(span.decode("utf-8", "surrogatepass"))[0] for span in spans]
    assert repr(found) == repr(expected)
    assert content[offsets[-1] : offsets[-1] + 1] == b"]"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a", b"a\nbc\n\n \t\n\r\n\x0b\n  d\n", b" \n\n e\r\n f", b"a\n ", b"\n \na\n  \n"]
)
def test_lines_are_cut_where_python_cuts_them(content: bytes, size: int) -> None:
    expected, position = [], 0
    for line in content.split(b"\n"):
        if line.strip():
            expected.append(position)
        position += len(line) + 1
    found = np.concatenate(list(record_offsets("lines", in_pieces(content, size)))).tolist()
    assert found == [*expected, len(content)]


@pytest.mark.parametrize("form", ["lines", "list on one line"])
def test_a_later_start_reads_next_to_nothing(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data", some_records(), form)
    before = bytes_read()
    open_records(path)
    assert bytes_read() - before >= path.stat().st_size
    before = bytes_read()
    records = open_records(path)
    file_digest(path)
    assert records[COUNT // 2]["id"] == f"r-{COUNT // 2}"
    assert bytes_read() - before < path.stat().st_size / 10


def test_a_small_file_gets_no_index(tmp_path: Path) -> None:
    assert len(open_records(write(tmp_path / "data", some_records(3)))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("form", ["lines", "list on one line"])
def test_a_change_that_keeps_size_and_time_is_noticed(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data", some_records(), form)
    open_records(path)
    old, before = path.stat(), file_digest(path)
    content = path.read_bytes()
    place = content.index(b'"r-41"')
    # A record moves by a byte, too: the old offsets would cut it.
    path.write_bytes(content[:place] + b' "q-1"' + content[place + 6 :])
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert file_digest(path) != before
    assert open_records(path)[41]["id"] == "q-1"
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def another_files(index: Path) -> None:
    other = write(index.parent.parent / "other", some_records()[::-1])
    open_records(other)
    index_of(other).replace(index)


def moved_offsets(index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[-300] ^= 1
    index.write_bytes(content)


DAMAGE = {
    "cut off": lambda index: index.write_bytes(index.read_bytes()[:-8]),
    "longer": lambda index: index.write_bytes(index.read_bytes() + b"12345678"),
    "empty": lambda index: index.write_bytes(b""),
    "another safetensors file": lambda index: save_file({"offsets": np.zeros(COUNT + 1, np.int64)}, index),
    "no safetensors file": lambda index: index.write_text("[1, 2, 3]" * 100),
    "a flipped bit": moved_offsets,
    "of another file": another_files,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_index_that_does_not_fit_is_made_again(kind: str, tmp_path: Path) -> None:
    records = some_records()
    path = write(tmp_path / "data", records)
    open_records(path)
    good = load_file(index_of(path))["offsets"]
    DAMAGE[kind](index_of(path))
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    opened = open_records(path)
    assert [opened[row]["id"] for row in range(COUNT)] == [record["id"] for record in records]
    np.testing.assert_array_equal(load_file(index_of(path))["offsets"], good)
    assert not list(tmp_path.rglob("*.tmp"))


def test_where_the_datas_folder_cannot_be_written_the_users_cache_serves(tmp_path: Path) -> None:
    """A file where the folder should be stands in for a read-only folder, which does not stop root."""
    path = write(tmp_path / "data", some_records())
    (tmp_path / FOLDER).touch()
    open_records(path)
    assert len(list((tmp_path / "cache" / "icons").glob("*.safetensors"))) == 1
    before = bytes_read()
    assert open_records(path)[7]["id"] == "r-7"
    assert bytes_read() - before < path.stat().st_size / 10


def test_without_any_place_for_an_index_records_are_read_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "data", some_records(), "list on one line")
    for folder in (FOLDER, "cache"):
        (tmp_path / folder).touch()
    assert open_records(path)[89]["id"] == "r-89"
    assert sorted(found.name for found in tmp_path.iterdir()) == [FOLDER, "cache", "data"]


OPEN = """
import sys
from pathlib import Path
from icons.data.sets import open_records
from icons.store.fingerprint import file_digest
sys.stdin.readline()
read = lambda: int(Path("/proc/self/io").read_text().split()[1])
before = read()
records = open_records(Path(sys.argv[1]))
print(read() - before, len(records), records[5]["id"], file_digest(Path(sys.argv[1])))
"""


def test_of_many_that_start_at_once_one_reads_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "data", some_records(COUNT, SMALL // 10), "list on one line")
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in started]
    assert {tuple(answer[1:]) for answer in answers} == {
        (str(COUNT), "r-5", hashlib.sha256(path.read_bytes()).hexdigest())
    }
    assert sum(int(answer[0]) >= path.stat().st_size for answer in answers) == 1


GROWTH = """
import sys
from pathlib import Path
from icons.data.sets import open_records
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
records = open_records(Path(sys.argv[1]))
for row in range(0, len(records), 7):
    records[row]
print((peak() - before) * 1024)
"""


@pytest.mark.parametrize("form", ["lines", "list on one line"])
def test_memory_does_not_grow_with_the_file(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data", some_records(1000), form, ascii_only=True)
    for limit in (0.4, 0.1):  # while the index is made a few blocks are held, later only records
        done = subprocess.run([sys.executable, "-c", GROWTH, path], capture_output=True, text=True, check=True)
        assert int(done.stdout) < limit * path.stat().st_size


class _Ids:
    def __init__(self, records: Records) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> str:
        return str(self.records[row]["id"])


@pytest.mark.parametrize("form", ["lines", "list on one line"])
def test_threads_and_forked_workers_read_what_they_ask_for(form: str, tmp_path: Path) -> None:
    records = open_records(write(tmp_path / "data", some_records(), form))
    expected = [f"r-{row}" for row in range(COUNT)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: records[row]["id"], list(range(COUNT)) * 5)) == expected * 5
    assert list(DataLoader(_Ids(records), batch_size=None, num_workers=2)) == expected
    assert pickle.loads(pickle.dumps(records))[3]["id"] == "r-3"


def test_what_was_opened_stays_what_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "data", some_records())
    records = open_records(path)
    write(tmp_path / "new", some_records()[::-1]).replace(path)
    assert records[0]["id"] == "r-0"
    assert open_records(path)[0]["id"] == "r-89"


def test_a_mistake_in_a_large_list_is_named_with_its_line(tmp_path: Path) -> None:
    texts = [json.dumps(record) for record in some_records()]
    path = tmp_path / "data"
    for broken in ("oops", '{"a": 1} {"b": 2}', '{"a": "\x01"}'):
        path.write_text("[\n" + ",\n".join([*texts[:60], broken, *texts[60:]]) + "\n]")
        with pytest.raises(UserError, match="data line 62: broken JSON"):
            open_records(path)
    path.write_text("[\n" + ",\n".join(texts) + "\n")
    with pytest.raises(UserError, match="line 92: broken JSON"):
        open_records(path)
    path.write_bytes(b"[" + ",".join(texts).encode() + b',"\xff"]')
    with pytest.raises(UserError, match="not UTF-8 text"):
        open_records(path)
    assert not index_of(path).exists()


def test_a_broken_line_of_a_large_file_is_one_bad_record(tmp_path: Path) -> None:
    texts = [json.dumps(record) for record in some_records()]
    texts[60] = texts[60][:-5]
    texts[70] = "[1, 2]"
    path = tmp_path / "data"
    path.write_text("\n\n".join(texts))
    records = open_records(path)
    with pytest.raises(BadRecordError, match=r"data line 121 \(row 60\): broken JSON"):
        records[60]
    with pytest.raises(BadRecordError, match="row 70: expected an object, found list"):
        records[70]
    assert records[61]["id"] == "r-61"
    with pytest.raises(IndexError):
        records[COUNT]


@pytest.mark.parametrize("kind", ["lines", "list"])
def test_gradients_do_not_depend_on_how_the_file_is_read(kind: Kind, project: Project, finished: Project) -> None:
    data = project.root / "data" / "train.json"
    records = [{**record, "note": "x" * (SMALL // 90)} for record in json.loads(data.read_text())]
    data.write_text("\n".join(map(json.dumps, records)) if kind == "lines" else json.dumps(records))
    project.raw["model"]["adapter"] = str(finished.run / "warmup" / "final")
    project.save()
    for chunk in range(3):
        outcome = project.icons("train-grads", "--chunk", chunk)
        assert outcome.code == 0, outcome.err
    assert index_of(data).is_file()
    found, expected = (read_rows(run / "train_grads" / "final") for run in (project.run, finished.run))
    np.testing.assert_array_equal(found["grads"], expected["grads"])


def test_the_benchmark_finds_what_an_index_saves(tmp_path: Path) -> None:
    options = ["--records", 20000, "--list-records", 0, "--no-first-batch", "--json", tmp_path / "r.json"]
    ran(ROOT / "benchmarks" / "records.py", *options)
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    assert results["2000 records, JSON lines"]["index_bytes"] == 0
    large = results["20000 records, JSON lines"]
    assert large["index_bytes"] >= 8 * 20001
    assert large["later_start"]["open_s"] < large["scan_every_time"]["open_s"]
