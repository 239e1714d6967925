"""`icons evaluate` against Hugging Face's own forward pass and generation, and what it keeps and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.conftest import Project


@pytest.fixture(scope="module")
def trained(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished run with two models trained on parts of it, and held-out questions named. Read only."""
    import shutil

    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(finished.root, root, dirs_exist_ok=True)
    raw = dict(finished.raw)
    raw["finetune"] = {"epochs": 2, "learning_rate": 1.0e-3, "batch_size": 8}
    records = json.loads((root / "data" / "tasks" / "colour.json").read_text())
    (root / "data" / "held.json").write_text(json.dumps(records[:4]))
    raw["evaluation"] = {
        "tasks": [
            {"name": "held", "data": "data/held.json", "images": "data/images"},
            {"name": "text", "data": "data/tasks/text.json", "images": "data/images"},
        ]
    }
    project = Project(root, raw)
    project.save()
    for options in ([], ["--random", 0]):
        outcome = project.icons("finetune", *options)
        assert outcome.code == 0, outcome.err
    return project


def table(project: Project, *options: object) -> list[dict[str, Any]]:
    outcome = project.icons("evaluate", "--json", *options)
    assert outcome.code == 0, outcome.err
    rows: list[dict[str, Any]] = json.loads(outcome.out)
    return rows


def test_every_model_is_asked_every_task(trained: Project) -> None:
    rows = table(trained)
    assert {(row["name"], row["task"]) for row in rows} == {
        (name, task) for name in ("warmup", "vote-20", "random-20-seed0") for task in ("held", "text", None)
    }
    for row in rows:
        assert row["loss"]["low"] <= row["loss"]["mean"] <= row["loss"]["high"]
        assert 0 <= row["exact"]["mean"] <= row["token_accuracy"]["mean"] <= 1


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of peft, with this transformers
def test_the_numbers_are_those_of_the_plain_model(trained: Project) -> None:
    """Loss and right tokens of each record, alone, from the labels that inspect shows and the model's own forward."""
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration, LlavaImageProcessorPil

    table(trained)
    base = Path(trained.raw["model"]["base"])
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, trained.run / "finetune" / "vote-20" / "final").eval()
    pixels = LlavaImageProcessorPil.from_pretrained(base, do_pad=True)
    stored = load_file(trained.run / "evaluation" / "vote-20" / "held.safetensors")
    for row, record in enumerate(json.loads((trained.root / "data" / "held.json").read_text())):
        shown = trained.icons("inspect", "--row", row, "--task", "colour", "--json")
        seen = json.loads(shown.out)
        image = Image.open(trained.root / "data" / "images" / record["image"]).convert("RGB")
        vision = model.config.vision_config
        tokens = (vision.image_size // vision.patch_size) ** 2
        pairs = [
            pair
            for token, label in zip(seen["input_ids"], seen["labels"], strict=True)
            for pair in ([(model.config.image_token_id, -100)] * tokens if token == -200 else [(token, label)])
        ]
        ids, labels = (torch.tensor(part) for part in zip(*pairs, strict=True))
        with torch.no_grad():
            logits = model(input_ids=ids[None], pixel_values=pixels(image, return_tensors="pt")["pixel_values"]).logits[
                0
            ]
        at = (labels[1:] != -100).nonzero().flatten()
        loss = torch.nn.functional.cross_entropy(logits[at], labels[1:][at])
        assert stored["losses"][row] == pytest.approx(float(loss), abs=2e-5)
        assert stored["right"][row] == int((logits[at].argmax(-1) == labels[1:][at]).sum())
        assert stored["tokens"][row] == len(at)


def test_generated_answers_are_right_where_every_token_was(trained: Project) -> None:
    table(trained, "--generate", "--of", "vote-20")
    for task in ("held", "text"):
        stored = load_file(trained.run / "evaluation" / "vote-20" / f"{task}.safetensors")
        exact = stored["right"] == stored["tokens"]
        assert (stored["generated"].astype(bool) >= exact).all()  # decoding greedily gives just these tokens


def test_what_is_there_is_not_asked_again_and_what_is_damaged_is(trained: Project) -> None:
    table(trained)
    path = trained.run / "evaluation" / "warmup" / "held.safetensors"
    before = path.stat().st_mtime_ns
    table(trained)
    assert path.stat().st_mtime_ns == before
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content)
    damaged = path.read_bytes()
    table(trained)
    assert path.read_bytes() != damaged
    assert np.isfinite(load_file(path)["losses"]).all()


def test_other_questions_are_other_results(trained: Project, tmp_path: Path) -> None:
    first = table(trained, "--of", "warmup")
    held = trained.root / "data" / "held.json"
    kept = held.read_text()
    try:
        held.write_text(json.dumps(json.loads(kept)[:2]))
        assert next(row for row in table(trained, "--of", "warmup") if row["task"] == "held")["rows"] == 2
    finally:
        held.write_text(kept)
    assert table(trained, "--of", "warmup") == first


def test_the_target_tasks_own_files_are_said_to_be_optimistic(trained: Project) -> None:
    outcome = trained.icons("evaluate", "--of", "base", "--set", "evaluation.tasks=[]")
    assert outcome.code == 0
    assert "optimistic" in outcome.out
    assert "optimistic" not in trained.icons("evaluate", "--of", "warmup").out


def test_a_name_that_is_not_there_is_told_with_those_that_are(trained: Project) -> None:
    outcome = trained.icons("evaluate", "--of", "vote-99")
    assert outcome.code == 2
    assert "base, warmup, random-20-seed0, vote-20" in outcome.err


def test_the_page_says_whether_it_helped(trained: Project) -> None:
    table(trained)
    outcome = trained.icons("report")
    assert outcome.code == 0, outcome.err
    page = (trained.run / "report" / "index.html").read_text()
    assert "What the trained models answer" in page
    assert "one trained on a random part" in page


def test_two_workers_give_what_one_gives(trained: Project) -> None:
    def anew(*options: object) -> list[dict[str, Any]]:
        for name in ("warmup", "vote-20"):
            (trained.run / "evaluation" / name / "text.json").unlink(missing_ok=True)
        return table(trained, *options)

    assert anew("--set", "gradients.workers=2") == anew()
