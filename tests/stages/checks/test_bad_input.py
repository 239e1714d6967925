"""Every bad input: one clear line with file, row and id, exit code 2, nothing half-written, nothing lost."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.conftest import Outcome, Project
from tests.data.test_images import bomb, noise
from tests.reference.selection import read_rows, read_selection

ROW = 7
Record = dict[str, Any]


@pytest.fixture
def ready(project: Project, finished: Project) -> Project:
    """A project whose adapter is there already, so that train-grads can be asked at once."""
    project.raw["model"]["adapter"] = str(finished.run / "warmup" / "final")
    project.raw["tasks"] = project.raw["tasks"][:2]
    project.save()
    return project


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err, outcome.err


def change_record(project: Project, change: Callable[[Record, Path], None]) -> str:
    """Changes one picture record; returns its id."""
    path = project.root / "data" / "train.json"
    records = json.loads(path.read_text())
    row = next(i for i in range(ROW, len(records)) if "image" in records[i])
    records[row], records[ROW] = records[ROW], records[row]
    change(records[ROW], project.root / "data" / "images")
    path.write_text(json.dumps(records))
    return str(records[ROW]["id"])


def say(record: Record, turn: int, text: str) -> None:
    record["conversations"][turn]["value"] = text


def image_file(write: Callable[[Path], Any]) -> Callable[[Record, Path], None]:
    def change(record: Record, images: Path) -> None:
        record["image"] = "bad.png"
        write(images / "bad.png")

    return change


def truncated(path: Path) -> None:
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:5000])


BAD_RECORDS: dict[str, tuple[Callable[[Record, Path], Any], str]] = {
    "no conversations": (lambda r, _: r.pop("conversations"), "no conversations"),
    "unknown speaker": (lambda r, _: r["conversations"][1].update({"from": "bot"}), "unknown speaker 'bot'"),
    "an image in two turns": (lambda r, _: r["conversations"].extend(r["conversations"]), "<image> in 2 turns"),
    "an image in an answer": (lambda r, _: say(r, 1, "<image>"), "stands in a gpt turn"),
    "missing image": (lambda r, _: r.update(image="nowhere.png"), "nowhere.png' does not exist"),
    "truncated image": (image_file(truncated), "cannot be decoded"),
    "zero-sized image": (image_file(lambda path: path.touch()), "is an empty file"),
    "decompression bomb": (image_file(bomb), "decompression bomb"),
    "path that leaves the folder": (lambda r, _: r.update(image="../../etc/passwd"), "leaves the image folder"),
    "half a character": (lambda r, _: say(r, 1, "a \ud800 b"), "lone surrogate"),
    "half a character in the path": (lambda r, _: r.update(image="a\ud800.png"), "lone surrogate"),
    "answer cut off": (lambda r, _: say(r, 0, "<image>\n" + "why " * 3000), "cuts the whole answer off"),
}

FOUND_IN = {"unknown speaker": "the text", "truncated image": "the image", "answer cut off": "the tokens"}
"""A kind for each step at which a record is found bad: for a run afterwards the kinds of a step are alike."""


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_bad_record_is_named_and_can_be_mended(kind: str, ready: Project) -> None:
    change, words = BAD_RECORDS[kind]
    data = ready.root / "data" / "train.json"
    good = data.read_text()
    name = change_record(ready, change)
    refused(ready.icons("train-grads"), f"{data} row {ROW} (id '{name}')", words, "on_bad_record: skip")
    validated = ready.icons("validate")
    assert validated.code == 2
    assert f"{data} row {ROW} (id '{name}')" in validated.out
    assert words in validated.out
    data.write_text(good)
    if kind in FOUND_IN:
        assert ready.icons("run").code == 0


@pytest.mark.parametrize("kind", FOUND_IN)
def test_skipped_records_are_invalid_counted_listed_and_never_selected(kind: str, ready: Project) -> None:
    ready.raw["on_bad_record"] = "skip"
    ready.save()
    change, words = BAD_RECORDS[kind]
    name = change_record(ready, change)
    outcome = ready.icons("run")
    assert outcome.code == 0, outcome.err
    assert "train-grads final: 100 rows, 1 invalid" in outcome.out
    rows = read_rows(ready.run / "train_grads" / "final")
    assert np.flatnonzero(~rows["valid"]).tolist() == [ROW]
    assert not rows["grads"][ROW].any()
    chunk = ready.run / "train_grads" / "final" / "chunk-00000-of-00003" / "manifest.json"
    (listed,) = json.loads(chunk.read_text())["bad_records"]
    assert listed["row"] == ROW
    assert f"(id '{name}')" in listed["reason"]
    assert words in listed["reason"]
    selection = read_selection(ready.run)
    assert ROW not in selection["indices"]
    assert (selection["num_invalid"], len(selection["indices"])) == (1, 20)


def test_validate_lists_all_problems_at_once(ready: Project) -> None:
    images = ready.root / "data" / "images"
    path = ready.root / "data" / "train.json"
    records = json.loads(path.read_text())
    rows = [i for i in range(len(records)) if "image" in records[i]][: len(BAD_RECORDS)]
    for row, (change, _) in zip(rows, BAD_RECORDS.values(), strict=True):
        change(records[row], images)
        if records[row].get("image") == "bad.png":
            records[row]["image"] = f"bad-{row}.png"
            (images / "bad.png").rename(images / f"bad-{row}.png")
    path.write_text(json.dumps(records))
    ready.raw["tasks"].append({"name": "gone", "data": "gone.json"})
    ready.save()
    outcome = ready.icons("validate")
    assert outcome.code == 2
    lines = [line for line in outcome.out.splitlines() if not line.endswith(", JSON list, form llava")]
    assert len(lines) == len(BAD_RECORDS) + 1
    for row, (_, words) in zip(rows, BAD_RECORDS.values(), strict=True):
        assert any(f"row {row} " in line and words in line for line in lines), words
    assert any("gone.json is not a file" in line for line in lines)
    assert f"{len(BAD_RECORDS) + 1} problems found" in outcome.err


def test_validate_shows_three_of_a_kind_and_writes_them_all(ready: Project) -> None:
    path = ready.root / "data" / "train.json"
    records = json.loads(path.read_text())
    for record in records[:40]:
        del record["conversations"]
    records[50]["conversations"][0]["from"] = "nobody"
    path.write_text(json.dumps(records))
    outcome = ready.icons(
        "validate",
        *("--set", "model.device=cuda"),
        *("--set", "selection.percent=0.2"),
        *("--set", "model.adapter=null"),
    )
    assert outcome.code == 2
    lines = outcome.out.splitlines()
    assert sum("no conversations" in line for line in lines) == 3
    assert "  ... and 37 more of this kind" in lines
    assert sum("unknown speaker" in line for line in lines) == 1
    assert f"41 problems found, all of them in {ready.run / 'problems.txt'}" in outcome.err
    assert len((ready.run / "problems.txt").read_text().splitlines()) == 41
    notes = [line for line in lines if line.startswith("note: ")]
    assert any("the warm-up has 4 steps (30 of 100 records, 8 a step)" in note for note in notes)
    assert any("selection.percent 0.2 is 0.2%, 0 records; 20 means a fifth" in note for note in notes)
    assert any("torch sees no GPU" in note for note in notes) or torch.cuda.is_available()


def test_validate_finds_nothing_wrong_with_a_good_run(finished: Project) -> None:
    outcome = finished.icons("validate")
    assert outcome.code == 0, outcome.err
    assert "100 training and 42 validation records" in outcome.out
    assert "no problem" in outcome.out


def test_broken_json_is_named_with_its_line(ready: Project) -> None:
    path = ready.root / "data" / "train.json"
    lines = json.dumps(json.loads(path.read_text()), indent=1).splitlines()
    lines[40] = lines[40] + " oops"
    path.write_text("\n".join(lines))
    refused(ready.icons("train-grads"), f"{path} line 4", "broken JSON")


def test_a_broken_json_line_is_one_bad_record(ready: Project) -> None:
    records = json.loads((ready.root / "data" / "train.json").read_text())
    lines = [json.dumps(record) for record in records]
    lines[ROW] = lines[ROW][:-9]
    path = ready.root / "data" / "train.jsonl"
    path.write_text("\n".join(lines))
    ready.raw["train"]["data"] = "data/train.jsonl"
    ready.save()
    refused(ready.icons("train-grads"), f"{path} line {ROW + 1}", "broken JSON")
    outcome = ready.icons("run", "--set", "on_bad_record=skip")
    assert outcome.code == 0, outcome.err
    assert ROW not in read_selection(ready.run)["indices"]


@pytest.mark.parametrize("content", ["", "[]", "  \n"])
def test_empty_data_and_empty_tasks_are_refused(content: str, ready: Project) -> None:
    task = ready.root / ready.raw["tasks"][0]["data"]
    good = task.read_text()
    task.write_text(content)
    refused(ready.icons("val-grads"), str(task))
    task.write_text(good)
    data = ready.root / "data" / "train.json"
    data.write_text(content)
    refused(ready.icons("train-grads"), str(data))


def test_a_task_of_bad_records_only_is_refused_by_the_specialist(ready: Project) -> None:
    task = ready.root / ready.raw["tasks"][0]["data"]
    task.write_text('[{"id": "x"}]')
    outcome = ready.icons("run", "--set", "on_bad_record=skip")
    refused(outcome, f"task {ready.raw['tasks'][0]['name']} has no valid validation row")


def test_config_mistakes_end_before_anything_is_written(ready: Project) -> None:
    ready.raw["gradients"]["projektion"] = "none"
    ready.save()
    refused(ready.icons("run"), "unknown key 'gradients.projektion'", "did you mean 'projection'", "line ")
    del ready.raw["gradients"]["projektion"]
    ready.raw["tasks"][1]["name"] = ready.raw["tasks"][0]["name"]
    ready.save()
    refused(ready.icons("run"), "is used 2 times")
    assert not ready.run.exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.data=nowhere.json", ["train.data", "nowhere.json is not a file"]),
        ("model.base=./nowhere", ["model.base", "nowhere is not a folder"]),
        ("gradients.dim=10000000", ["gradients.dim 10000000 exceeds the"]),
        ("train.num_chunks=1000", ["train.num_chunks 1000 exceeds the 100 records"]),
        ("model.adapter=null", ["no adapter", "icons warmup"]),
        ("model.device=cuda", ["cuda asked for"]),
    ],
)
def test_settings_that_cannot_be_met(override: str, words: list[str], ready: Project) -> None:
    refused(ready.icons("train-grads", "--set", override), *words)


def test_a_dim_that_cannot_be_met_is_refused_before_any_training(ready: Project) -> None:
    ready.raw["model"]["adapter"] = None
    ready.raw["gradients"]["dim"] = 10_000_000
    ready.save()
    refused(ready.icons("run"), "gradients.dim 10000000 exceeds the", "LoRA parameters")
    assert not (ready.run / "warmup").exists()
    outcome = ready.icons("validate")
    assert outcome.code == 2
    assert "gradients.dim 10000000 exceeds the" in outcome.out


@pytest.mark.parametrize("option", [("train-grads", "--chunk", "3"), ("val-grads", "--task", "nope")])
def test_a_chunk_or_task_that_is_not_there(option: tuple[str, ...], ready: Project) -> None:
    refused(ready.icons(*option), option[2])


@pytest.fixture
def own_model(ready: Project, tiny_model: Path) -> Path:
    shutil.copytree(tiny_model, ready.root / "model")
    ready.raw["model"]["base"] = "./model"
    ready.save()
    return ready.root / "model"


def test_a_model_folder_without_weights(ready: Project, own_model: Path) -> None:
    (own_model / "model.safetensors").unlink()
    refused(ready.icons("train-grads"), "has no weights")


def test_a_model_that_lacks_a_tensor_is_not_filled_with_random_numbers(ready: Project, own_model: Path) -> None:
    weights = load_file(own_model / "model.safetensors")
    gone = next(name for name in weights if "q_proj" in name and "language_model" in name)
    del weights[gone]
    save_file(weights, own_model / "model.safetensors", metadata={"format": "pt"})
    refused(ready.icons("train-grads"), "lacks 1 of the model's tensors", "q_proj")


def test_weights_that_are_no_safetensors(ready: Project, own_model: Path) -> None:
    good = (own_model / "model.safetensors").read_bytes()
    for bad in (b"not a tensor", good[: len(good) // 2]):
        (own_model / "model.safetensors").write_bytes(bad)
        refused(ready.icons("train-grads"), "cannot be loaded")
        assert "model.safetensors cannot be read" in ready.icons("validate").out


def test_nan_in_the_weights_stops_the_run_and_names_a_record(ready: Project, own_model: Path) -> None:
    weights = {name: array.copy() for name, array in load_file(own_model / "model.safetensors").items()}
    name = next(name for name in weights if "layers.1" in name and "down_proj" in name)
    weights[name][0, 0] = np.nan
    save_file(weights, own_model / "model.safetensors", metadata={"format": "pt"})
    for extra in ([], ["--set", "on_bad_record=skip"]):
        refused(ready.icons("train-grads", *extra), "train.json row ", "(id '", "not a finite number")
    refused(ready.icons("warmup", "--set", "model.adapter=null"), "train.json rows ", "not a finite number")


@pytest.fixture
def own_adapter(ready: Project, finished: Project) -> Path:
    shutil.copytree(finished.run / "warmup" / "final", ready.root / "adapter")
    ready.raw["model"]["adapter"] = "adapter"
    ready.save()
    return ready.root / "adapter" / "adapter_model.safetensors"


def test_an_adapter_of_another_model_is_not_half_loaded(ready: Project, own_adapter: Path) -> None:
    tensors = load_file(own_adapter)
    save_file({name.replace(".layers.1.", ".layers.7."): array for name, array in tensors.items()}, own_adapter)
    refused(ready.icons("train-grads"), "does not fit the model", "tensor names differ")
    save_file({name.replace(".language_model.", "."): array for name, array in tensors.items()}, own_adapter)
    refused(ready.icons("train-grads"), "was trained by the original LLaVA code", "icons import-adapter")
    wide = {name: np.concatenate([a, a], axis=1) if "down_proj.lora_A" in name else a for name, a in tensors.items()}
    save_file(wide, own_adapter)
    refused(ready.icons("train-grads"), "does not fit the model")
    own_adapter.write_bytes(b"{}")
    refused(ready.icons("train-grads"), "cannot be read")
    own_adapter.unlink()
    refused(ready.icons("train-grads"), "has no adapter_model.safetensors")


def test_no_space_left_keeps_what_is_finished(ready: Project) -> None:
    """A limit on the size of files stands in for a full disk: the system's own refusal in the middle of a shard."""
    ready.raw["gradients"]["shard_rows"] = 12
    ready.save()
    assert ready.icons("train-grads", "--chunk", 0).code == 0
    before = read_rows(ready.run / "train_grads" / "final")["rows"]
    command = [sys.executable, "-m", "icons", "train-grads", str(ready.config)]
    limit = 8000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files, check=False)
    assert done.returncode == 2, done.stderr
    assert "shard-00000.safetensors: the file size limit is reached; finished work is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(ready.run.rglob("*.tmp"))
    assert read_rows(ready.run / "train_grads" / "final")["rows"].tolist() == before.tolist()
    assert ready.icons("run").code == 0


def test_an_output_folder_that_cannot_be_written(ready: Project) -> None:
    (ready.root / "file").touch()
    for command in ("train-grads", "run"):
        refused(ready.icons(command, "--set", "output_dir=file/run"), "output_dir: ", "cannot be written to")
    outcome = ready.icons("validate", "--set", "output_dir=file/run")
    assert outcome.code == 2
    assert "output_dir" in outcome.out
    refused(ready.icons("train-grads", "--set", "output_dir=/proc/icons"), "output_dir: /proc/icons")


def test_damaged_files_of_ours_are_named(copy_of_finished: Project) -> None:
    chunk = copy_of_finished.run / "train_grads" / "final" / "chunk-00000-of-00003"
    good = (chunk / "manifest.json").read_bytes()
    (chunk / "manifest.json").write_bytes(good[:-40])
    refused(copy_of_finished.icons("merge"), str(chunk / "manifest.json"), "is damaged")
    (chunk / "manifest.json").write_bytes(good)
    scores = copy_of_finished.run / "influence" / "scores.safetensors"
    scores.write_bytes(b"{}")
    refused(copy_of_finished.icons("generalist", "--set", "selection.percent=5"), str(scores), "is damaged")
    scores.unlink()
    refused(copy_of_finished.icons("generalist", "--set", "selection.percent=5"), "icons specialist")


def test_selecting_less_than_one_record_is_refused(copy_of_finished: Project) -> None:
    outcome = copy_of_finished.icons("generalist", "--set", "selection.percent=0.5")
    refused(outcome, "0.5% of 100 records is less than one")


def test_an_image_with_alpha_and_one_without_share_a_batch(ready: Project) -> None:
    def change(record: Record, images: Path) -> None:
        Image.open(images / record["image"]).convert("RGBA").save(images / record["image"])

    change_record(ready, change)
    assert ready.icons("train-grads").code == 0


def test_the_warm_up_leaves_unreadable_images_out_and_counts_them(ready: Project) -> None:
    change_record(ready, BAD_RECORDS["missing image"][0])
    sets = ["--set", "model.adapter=null", "--set", "warmup.batch_size=1", "--set", "warmup.fraction=1"]
    refused(ready.icons("warmup", *sets), f"train.json row {ROW} (id ", "does not exist")
    outcome = ready.icons("warmup", *sets, "--set", "on_bad_record=skip")
    assert outcome.code == 0, outcome.err
    assert "on 99 records, 1 bad records left out" in outcome.out


def test_a_checkpoint_that_the_warm_up_will_not_write_is_refused_before_it(ready: Project) -> None:
    sets = ["--set", "model.adapter=null", "--set", "gradients.checkpoints=[3]"]
    refused(ready.icons("run", *sets), "will leave no checkpoint 3", "it has 4 steps")
    assert not (ready.run / "warmup").exists()


def test_an_adapter_that_reaches_the_vision_tower_is_refused(ready: Project, tiny_model: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    base = LlavaForConditionalGeneration.from_pretrained(tiny_model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(ready.root / "wide")
    ready.raw["model"]["adapter"] = "wide"
    ready.save()
    refused(ready.icons("train-grads"), "LoRA layers outside the language model", "vision_tower")


def test_a_damaged_index_is_written_again(copy_of_finished: Project) -> None:
    index = copy_of_finished.run / "train_grads" / "final" / "index.json"
    good = json.loads(index.read_bytes())
    index.write_text('{"format": 1}')
    refused(copy_of_finished.icons("specialist"), "is damaged", "icons merge")
    assert copy_of_finished.icons("merge").code == 0
    again = json.loads(index.read_bytes())
    assert {key for key in good if again[key] != good[key]} <= {"seconds", "sha256"}  # the seal is over the seconds too


def test_one_object_over_several_lines_is_no_list_of_records(ready: Project) -> None:
    path = ready.root / "data" / "train.json"
    path.write_text(json.dumps({"id": 1, "conversations": []}, indent=2))
    refused(ready.icons("train-grads"), f"{path}: one JSON object over several lines")


def test_deep_images_are_told_by_validate(ready: Project) -> None:
    def change(record: Record, images: Path) -> None:
        grey = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (64, 1))
        Image.fromarray(grey).save(images / "deep.png")
        record["image"] = "deep.png"

    change_record(ready, change)
    outcome = ready.icons("validate")
    assert outcome.code == 0, outcome.out
    assert "note: training data: images of 16 bits a channel, scaled to 8: 1, such as" in outcome.out
