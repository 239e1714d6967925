"""The final run: which rows it trains on, what it leaves, several processes, kills, and the merged model."""

from __future__ import annotations

import json
import shutil
import socket
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.numpy import load_file

from icons.store.files import read_sealed, write_sealed
from tests.conftest import Project
from tests.warm import Program, ran

ROWS = list(range(0, 96, 2))


def finetuned(project: Project, name: str) -> Path:
    return project.run / "finetune" / name


def adapter(project: Project, name: str) -> dict[str, Any]:
    return load_file(finetuned(project, name) / "final" / "adapter_model.safetensors")


def log(project: Project, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finetuned(project, name) / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def tuning(project: Project) -> Project:
    """48 rows in steps of 8: whole steps, so that the number of processes changes nothing."""
    project.raw["model"]["lora"]["dropout"] = 0.0
    project.raw["finetune"] = {"epochs": 2, "batch_size": 8, "learning_rate": 1.0e-3, "save_steps": 2}
    project.save()
    (project.root / "rows.json").write_text(json.dumps(ROWS))
    return project


def tune(project: Project, *options: object) -> str:
    outcome = project.icons("finetune", "--indices", project.root / "rows.json", *options)
    assert outcome.code == 0, outcome.err
    return outcome.out


def refused(project: Project, *options: object) -> str:
    outcome = project.icons("finetune", *options)
    assert outcome.code == 2, outcome.err
    return outcome.err


def test_it_trains_on_the_selection(copy_of_finished: Project) -> None:
    project = copy_of_finished
    project.raw["finetune"] = {"batch_size": 4, "save_steps": 1, "learning_rate": 1.0e-3}
    project.save()
    outcome = project.icons("finetune")
    assert outcome.code == 0, outcome.err
    assert "finetune vote-20: 5 steps on 20 records, loss " in outcome.out
    folder = finetuned(project, "vote-20")
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    assert not (folder / "final" / "optimizer.pt").exists()
    assert [entry["step"] for entry in log(project, "vote-20")] == [1, 2, 3, 4, 5]
    assert (folder / "loss.png").is_file()
    assert not (folder / "merged").exists()
    for options in ([], ["--selection", "vote-20"]):
        assert project.icons("finetune", *options).out == "finetune vote-20: 5 steps, already done\n"
    message = refused(project, "--selection", "vote-30")
    assert "no selection vote-30 in" in message
    assert "(there are vote-20); run `icons generalist` first" in message
    message = refused(project, "--set", "finetune.projector_learning_rate=null")
    assert "projector_learning_rate is 2e-05, expected None" in message


def test_the_parts_it_is_compared_with(copy_of_finished: Project) -> None:
    project = copy_of_finished
    sets = ["--set", "finetune.batch_size=20", "--set", "finetune.max_steps=1"]
    assert "1 steps on 100 records" in project.icons("finetune", "--everything", *sets).out
    for seed in (0, 1):
        outcome = project.icons("finetune", "--random", seed, *sets)
        assert "1 steps on 20 records" in outcome.out, outcome.err
    manifests = [
        json.loads((finetuned(project, name) / "manifest.json").read_text())
        for name in ("everything", "random-20-seed0", "random-20-seed1")
    ]
    assert [manifest["records"] for manifest in manifests] == [100, 20, 20]
    assert "rows is 'everything', expected '20 at random, seed 0'" in refused(
        project, "--random", 0, "--name", "everything", *sets
    )
    assert "--everything and --random exclude each other" in refused(project, "--everything", "--random", "0")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([0, 1, 100], "index 100 is not in"),
        ([3, 1, 3], "row 3 stands twice"),
        ([1, -1], "-1 is no row number"),
        ([1, True], "True is no row number"),
        ([], "expected a list of row numbers"),
        ({"rows": [1]}, "expected a list of row numbers"),
        ({"indices": [1, 2], "num_train": 99}, "was made of 99 records"),
    ],
)
def test_indices_that_are_none(project: Project, content: Any, words: str) -> None:
    (project.root / "rows.json").write_text(json.dumps(content))
    assert words in refused(project, "--indices", project.root / "rows.json")
    assert not (project.run / "finetune").exists()


def test_without_a_selection_it_says_what_to_do(project: Project) -> None:
    assert "run `icons generalist` first" in refused(project)
    (project.root / "rows.json").write_text("[1]")
    assert "--name '../x'" in refused(project, "--indices", project.root / "rows.json", "--name", "../x")


def test_an_unreadable_image_is_named_before_the_training_or_left_out(tuning: Project) -> None:
    records = json.loads((tuning.root / "data" / "train.json").read_text())
    row = next(row for row in ROWS if "image" in records[row])
    (tuning.root / "data" / "images" / records[row]["image"]).write_bytes(b"")
    message = refused(tuning, "--indices", tuning.root / "rows.json")
    assert f"train.json row {row} (id " in message
    assert "is an empty file" in message
    assert not (tuning.run / "finetune").exists()
    out = tune(tuning, "--set", "on_bad_record=skip", "--set", "finetune.max_steps=1")
    assert "1 steps on 47 records, 1 bad records left out" in out
    manifest = json.loads((finetuned(tuning, "rows") / "manifest.json").read_text())
    assert [record["row"] for record in manifest["bad_records"]] == [row]


def test_the_merged_model_is_a_plain_folder_that_computes_the_same(tuning: Project, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    tune(tuning, "--set", "finetune.max_steps=3", "--set", "finetune.learning_rate=0.01")
    assert "already done" in tune(
        tuning, "--merge", "--set", "finetune.max_steps=3", "--set", "finetune.learning_rate=0.01"
    )
    folder = finetuned(tuning, "rows") / "merged"
    assert not list(folder.glob("adapter*"))
    merged, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    base = LlavaForConditionalGeneration.from_pretrained(tiny_model)
    processor = AutoProcessor.from_pretrained(folder)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    question = "USER: <image>\nWhat color is the shape? ASSISTANT:"
    inputs = processor(text=question, images=picture, return_tensors="pt")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
        plain = base(**inputs).logits
        expected = PeftModel.from_pretrained(base, finetuned(tuning, "rows") / "final").eval()(**inputs).logits
        found = merged(**inputs).logits
        answer = merged.generate(**inputs, max_new_tokens=2, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer[0] == expected[0, -1].argmax()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 0.05


def start(project: Project, *options: object, environment: Mapping[str, str] | None = None) -> Program:
    command = ["-m", "icons", "finetune", project.config, "--indices", project.root / "rows.json"]
    return Program(*command, *options, environment=environment)


def two_processes(project: Project, *options: object) -> tuple[Program, Program]:
    """What torchrun starts: the same command twice, each told its rank."""
    around = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    first, second = (
        start(project, *options, environment={**around, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    )
    return first, second


def kill_both_when(processes: tuple[Program, Program], moment: Callable[[], bool]) -> None:
    processes[0].wait_until(moment)
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_run_killed_in_its_second_epoch_ends_the_same(tuning: Project) -> None:
    tuning.raw["model"]["lora"]["dropout"] = 0.1
    tuning.save()
    tune(tuning, "--name", "undisturbed")
    checkpoint = finetuned(tuning, "rows") / "checkpoint-8"
    start(tuning).kill_when((checkpoint / "complete").is_file)
    assert not (finetuned(tuning, "rows") / "final").exists()
    with (finetuned(tuning, "rows") / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    tune(tuning)
    whole, again = adapter(tuning, "undisturbed"), adapter(tuning, "rows")
    assert whole.keys() == again.keys()
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    assert [entry["step"] for entry in log(tuning, "rows")] == list(range(1, 13))


def test_a_run_killed_behind_its_last_step_only_finishes(tuning: Project) -> None:
    tune(tuning, "--set", "finetune.max_steps=3")
    folder = finetuned(tuning, "rows")
    expected = adapter(tuning, "rows")
    write_sealed(folder / "manifest.json", read_sealed(folder / "manifest.json", "") | {"complete": False})
    assert "3 steps on 48 records" in tune(tuning, "--set", "finetune.max_steps=3")
    assert not (folder / "checkpoint-4").exists()
    assert log(tuning, "rows")[-1]["step"] == 3
    assert all(np.array_equal(expected[name], tensor) for name, tensor in adapter(tuning, "rows").items())


def test_checkpoints_of_unknown_origin_are_not_gone_on_from(tuning: Project) -> None:
    tune(tuning, "--set", "finetune.max_steps=1")
    (finetuned(tuning, "rows") / "manifest.json").unlink()
    message = refused(tuning, "--indices", tuning.root / "rows.json", "--set", "finetune.max_steps=1")
    assert "has checkpoints and no manifest.json" in message


def test_two_processes_train_as_one_and_go_on_after_a_kill(tuning: Project) -> None:
    """The same 8 records a step: by one process at once, in two halves one after the other, by two processes."""
    tune(tuning, "--name", "one")
    tune(tuning, "--name", "halves", "--set", "finetune.batch_size=4", "--set", "finetune.gradient_accumulation=2")
    halved = ["--set", "finetune.batch_size=4"]
    checkpoint = finetuned(tuning, "rows") / "checkpoint-8"
    kill_both_when(two_processes(tuning, *halved), (checkpoint / "complete").is_file)
    assert not (finetuned(tuning, "rows") / "final").exists()
    alone = refused(tuning, "--indices", tuning.root / "rows.json", *halved)
    assert "processes is 2, expected 1" in alone
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    out = ran(*launcher, "-m", "icons", "finetune", tuning.config, "--indices", tuning.root / "rows.json", *halved)
    assert out.count("finetune rows: 12 steps on 48 records") == 1, "the main process alone speaks"
    for name in ("halves", "rows"):
        losses, expected = ([entry["loss"] for entry in log(tuning, other)] for other in (name, "one"))
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        whole = adapter(tuning, "one")
        for key, tensor in adapter(tuning, name).items():
            np.testing.assert_allclose(tensor, whole[key], atol=2e-4, err_msg=key)
    state = yaml.safe_load((tuning.run / "config.yaml").read_text())
    assert state["finetune"]["batch_size"] == 4
    assert "already done" in tune(tuning, *halved), "what is finished may be used by any number of processes"


def test_other_commands_refuse_several_processes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    outcome = project.icons("run")
    assert outcome.code == 2
    assert "only `icons warmup` and `icons finetune` run in several processes" in outcome.err


def test_a_selection_of_another_data_file_is_not_trained_on(copy_of_finished: Project) -> None:
    """Two records that change places leave the number of records as it was."""
    project = copy_of_finished
    path = project.root / "data" / "train.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([records[1], records[0], *records[2:]]))
    for command in ("finetune", "generalist", "specialist"):
        outcome = project.icons(command)
        assert outcome.code == 2, outcome.out
        assert str(path) in outcome.err
        assert not (project.run / "finetune").exists()


def test_the_merged_model_is_of_the_adapter_that_is_there(tuning: Project) -> None:
    short = ("--merge", "--set", "finetune.max_steps=3", "--set", "finetune.learning_rate=0.01")
    tune(tuning, *short)
    weights = finetuned(tuning, "rows") / "merged" / "model.safetensors"
    first = weights.read_bytes()
    assert "is there already" in tune(tuning, *short)
    for path in [finetuned(tuning, "rows") / "final", *finetuned(tuning, "rows").glob("checkpoint-*")]:
        shutil.rmtree(path)
    (finetuned(tuning, "rows") / "manifest.json").unlink()
    tune(tuning, *short, "--set", "finetune.learning_rate=0.1")
    assert weights.read_bytes() != first


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2", " line 1: broken JSON"),
        (None, " is not a regular file"),
        ('[{"id": 1, "conversations": []}]', " holds records, not row numbers: it is a data file"),
        ('{"id": 1, "conversations": []}\n{"id": 2}\n', " line 2: JSON lines of records, a data file"),
    ],
)
def test_a_file_that_is_no_index_is_named(content: str | None, words: str, tuning: Project) -> None:
    path = tuning.root / "own"
    path.mkdir() if content is None else path.write_text(content)
    outcome = tuning.icons("finetune", "--indices", path)
    assert outcome.code == 2
    assert f"{path}{words}" in outcome.err
