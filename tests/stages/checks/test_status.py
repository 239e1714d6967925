"""`icons status`: states from manifests and heartbeats, ranges in place of thousands of lines, time left, watching."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from icons.ranges import as_ranges
from icons.stages.checks.status import Piece, summarise
from icons.stages.checks.status_table import table
from icons.store.files import read_sealed, write_sealed
from icons.store.heartbeat import Heartbeat
from icons.store.lock import only_one_process
from tests.conftest import Project


@pytest.fixture(autouse=True)
def with_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where `sbatch` is: what is missing is told as the list that it takes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def train_states(project: Project) -> list[str]:
    found: dict[str, Any] = json.loads(project.icons("status", "--json").out)
    return [piece["state"] for piece in found["pieces"] if piece["stage"] == "train-grads"]


def chunk_folder(project: Project, number: int) -> Path:
    return project.run / "train_grads" / "final" / f"chunk-0000{number}-of-00003"


@pytest.fixture
def begun(copy_of_finished: Project) -> Project:
    """The finished run, but for the last shard of chunk 1 and all of chunk 2."""
    manifest = chunk_folder(copy_of_finished, 1) / "manifest.json"
    content = read_sealed(manifest, "")
    (chunk_folder(copy_of_finished, 1) / content["shards"].pop()["file"]).unlink()
    write_sealed(manifest, {**content, "complete": False})
    for path in chunk_folder(copy_of_finished, 2).iterdir():
        path.unlink()
    return copy_of_finished


def test_of_a_finished_run(finished: Project) -> None:
    found = json.loads(finished.icons("status", "--json").out)
    assert {piece["state"] for piece in found["pieces"]} == {"done"}
    (train,) = [stage for stage in found["stages"] if stage["stage"] == "train-grads"]
    assert train["counts"] == {"done": 3}
    assert train["array"] == ""
    printed = finished.icons("status", "--watch").out  # ends at once, since all is done
    assert "train-grads  3/3" in printed
    assert "vote-20: 20 of 100 selected" in printed
    assert "--array" not in printed


def test_before_anything_has_run(project: Project) -> None:
    outcome = project.icons("status")
    assert outcome.code == 0
    assert "train-grads  0/3        3 missing" in outcome.out
    assert "final  again    --array=0-2" in outcome.out
    assert not project.run.exists()


def test_what_is_damaged_is_named(begun: Project) -> None:
    (begun.run / "val_grads" / "final" / "digit" / "manifest.json").write_text("{")
    (chunk_folder(begun, 0) / "shard-00000.safetensors").unlink()
    outcome = begun.icons("status")
    assert outcome.code == 0
    assert "final  damaged  digit                " in outcome.out
    assert "final  damaged  0                    shard-00000.safetensors is gone or cut off" in outcome.out
    assert "final  again    --array=0-2" in outcome.out
    assert train_states(begun) == ["damaged", "stopped", "missing"]


def test_a_live_chunk_is_running_and_not_to_be_submitted_again(begun: Project) -> None:
    with only_one_process(chunk_folder(begun, 2)), Heartbeat(chunk_folder(begun, 2), 33, 0) as beat:
        beat.advance(11)
        time.sleep(0.1)
        beat.advance(11)
        beat.write()
        assert train_states(begun) == ["done", "stopped", "running"]
        printed = begun.icons("status").out
        assert "1 running, 1 stopped; " in printed
        assert "about a minute left" in printed
        assert "final  stopped  1                    32 of 33 rows\n" in printed
        assert f"final  running  2                    22 of 33 rows on {os.uname().nodename}" in printed
        assert "final  again    --array=1\n" in printed
    assert train_states(begun) == ["done", "stopped", "missing"]


def test_a_process_that_lives_and_gets_nowhere_is_pointed_out(begun: Project) -> None:
    path = chunk_folder(begun, 2) / "heartbeat.json"
    with Heartbeat(path.parent, 33, 0) as beat:
        beat.write()
        path.write_text(json.dumps({**json.loads(path.read_text()), "idle": 700}))
        assert (
            "final  running  2                    no new row for ten minutes or more, 0 of 33"
            in begun.icons("status").out
        )


@pytest.mark.parametrize("seconds", [-3600, 3600, -10 * 365 * 86400])
def test_a_beat_that_is_old_or_of_the_future_is_no_life(seconds: float, begun: Project) -> None:
    folder = chunk_folder(begun, 2)
    with Heartbeat(folder, 33, 0):
        time.sleep(0.2)
        beat = (folder / "heartbeat.json").read_bytes()
    (folder / "heartbeat.json").write_bytes(beat)
    assert train_states(begun)[2] == "running"
    moment = time.time() + seconds
    os.utime(folder / "heartbeat.json", (moment, moment))
    assert train_states(begun)[2] == "stopped"
    assert f"2                    no sign of life from {os.uname().nodename}, 0 of 33 rows" in begun.icons("status").out


def test_a_killed_process_is_seen_at_once_on_its_own_machine(begun: Project) -> None:
    code = (
        "import sys, time, pathlib, icons.store.heartbeat as h\n"
        "with h.Heartbeat(pathlib.Path(sys.argv[1]), 33, 0): time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, chunk_folder(begun, 2)])
    while not (chunk_folder(begun, 2) / "heartbeat.json").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    assert train_states(begun)[2] == "running"
    process.kill()
    process.wait()
    assert train_states(begun)[2] == "stopped"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"state": "running"}'])
def test_a_broken_beat_counts_as_none(content: str, begun: Project) -> None:
    (chunk_folder(begun, 2) / "heartbeat.json").write_text(content)
    assert train_states(begun)[2] == "missing"


def test_a_failed_chunk_shows_its_error_until_it_is_done(begun: Project) -> None:
    data = begun.root / "data" / "train.json"
    records = json.loads(data.read_text())
    image = begun.root / "data" / "images" / next(r for r in reversed(records) if "image" in r)["image"]
    good = image.read_bytes()
    image.write_bytes(b"not an image")
    assert begun.icons("train-grads", "--chunk", 2).code == 2
    printed = begun.icons("status").out
    assert "1 failed, 1 stopped" in printed
    assert f"final  failed   2                    {data} row " in printed
    image.write_bytes(good)
    assert begun.icons("train-grads").code == 0
    assert train_states(begun) == ["done"] * 3
    assert not list(begun.run.rglob("heartbeat.json"))


def test_three_thousand_chunks_take_a_screen() -> None:
    states = ["done"] * 1000 + ["running"] * 500 + ["failed"] * 40 + ["missing"] * 1460
    pieces = [
        Piece(
            "train-grads", f"chunk-{number}", state, f"error {number % 20}" if state == "failed" else "", "500", number
        )
        for number, state in enumerate(states)
    ]
    pieces = [Piece(**{**vars(p), "rows": 100 if p.state == "done" else 0, "total": 100, "rate": 2.0}) for p in pieces]
    lines = list(table(pieces))
    assert len(lines) < 15
    assert lines[0] == (
        "train-grads  1000/3000  500 running, 40 failed, 1460 missing; 1000.0 samples/s, about 3 min left"
    )
    assert "  500    failed   1500,1520            error 0" in lines
    assert "  500    failed   1508-1519,1528-1539  12 other reasons" in lines
    assert lines[-1] == "  500    again    --array=1500-2999"
    (summary,) = summarise(pieces)
    assert summary.array == "1500-2999"
    assert summary.seconds_left == 200


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([7, 3, 8, 9, 8], "3,7-9"), ([0, 1, 3, 4, 6], "0-1,3-4,6"), (range(3000), "0-2999")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert as_ranges(numbers) == text


ODD_BEATS = [
    '{"state":"running","rows":1,"total":1,"rate":1,"idle":{},"host":"a","machine":"","pid":1,"job":"","error":""}',
    '{"state":"running"}',
    "[" * 100_000,
    '["x"]',
    '{"state":"failed","rows":1e400,"total":1,"rate":1,"idle":0,"host":"\\u001b[2J","machine":"","pid":1,"job":"",'
    '"error":""}',
]


@pytest.mark.parametrize("beat", ODD_BEATS)
def test_an_odd_heartbeat_is_no_sign_of_life(beat: str, begun: Project) -> None:
    folder = chunk_folder(begun, 2)
    folder.mkdir(exist_ok=True)
    (folder / "heartbeat.json").write_text(beat)
    outcome = begun.icons("status")
    assert outcome.code == 0
    assert "\x1b" not in outcome.out


def test_odd_files_of_a_run_are_told_not_raised(copy_of_finished: Project) -> None:
    import shutil

    run = copy_of_finished.run
    shutil.copytree(run / "warmup" / "checkpoint-2", run / "warmup" / "checkpoint-2.bak")
    scores = run / "influence" / "scores.safetensors"
    content = scores.read_bytes()
    for old, new in ((b'[\\"', b'{\\"'), (b'"asked"', b'"asket"'), (b"{", b"[")):
        scores.write_bytes(content.replace(old, new, 1))
        pieces = json.loads(copy_of_finished.icons("status", "--json").out)["pieces"]
        assert [piece["state"] for piece in pieces if piece["stage"] == "specialist"] == ["damaged"]
    (run / "warmup" / "manifest.json").write_text("[" * 100_000)
    (run / "selection" / "vote-20" / "selected_indices.json").write_text('{"indices": 3}')
    pieces = json.loads(copy_of_finished.icons("status", "--json").out)["pieces"]
    assert {piece["stage"] for piece in pieces if piece["state"] == "damaged"} >= {"warmup", "generalist"}


def test_the_table_is_linear_in_the_checkpoints() -> None:
    """Compared by the lines of code that it goes through, not by a clock."""

    def calls(count: int) -> int:
        pieces = [
            Piece(stage, f"chunk {number}", "missing", checkpoint=str(number), number=0)
            for number in range(count)
            for stage in ("val-grads", "train-grads", "merge")
        ]
        seen = 0

        def count_calls(frame: Any, event: str, argument: Any) -> Any:
            nonlocal seen
            seen += event == "line"
            return count_calls

        sys.settrace(count_calls)
        try:
            lines = list(table(pieces))
        finally:
            sys.settrace(None)
        assert len(lines) >= count
        return seen

    assert calls(400) < 6 * calls(100)
