"""Other models than LLaVA-1.5, through their own chat template: variable image tokens, several images, none at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from icons.config import LoraConfig, ModelConfig
from icons.data.batches import make_batch, stack_images
from icons.data.formats import ChatFormat
from icons.data.samples import DataSource, Sample
from icons.data.sets import open_records
from icons.data.tokens import IGNORE
from icons.gradients.per_sample import backpropagate
from icons.models.adapters import attach_fresh_lora
from icons.models.formats import input_format
from icons.models.loading import load_base
from icons.models.vlm import VisionLanguageModel
from icons.store.fingerprint import model_digest
from tests.conftest import icons
from tests.data.test_images import noise
from tests.reference.gradients import randomise_lora, sequential_gradients
from tests.vision_models import BUILDERS

VISION = ["qwen2_vl", "idefics3", "llava_next"]
RUN = [*VISION, "llama"]
SIZES = {"wide.png": (50, 30), "tall.png": (30, 80), "small.png": (20, 20)}


class Models:
    """Model folders by architecture, each built when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, name: str) -> Path:
        folder = self.root / name
        if not folder.is_dir():
            (self.root / "part").mkdir(exist_ok=True)
            try:
                BUILDERS[name](self.root / "part")
            except ImportError as error:  # some versions of transformers have no image processor without torchvision
                pytest.skip(str(error).strip().splitlines()[0])
            (self.root / "part").rename(folder)
        return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


TEXT_RECORDS = [
    {"conversations": [human("How many are one and two?"), gpt("three")]},
    {"conversations": [human("What is red?"), gpt("The circle."), human("And blue?"), gpt("The square on the left.")]},
]
RECORDS: list[dict[str, Any]] = [
    *TEXT_RECORDS,
    {"image": "wide.png", "conversations": [human("<image>\nWhat is it?"), gpt("a red circle")]},
    {
        "image": "tall.png",
        "conversations": [human("Is it blue? <image>"), gpt("no"), human("Sure?"), gpt("Yes, it is")],
    },
    {
        "image": ["small.png", "tall.png"],
        "conversations": [human("<image> and <image>\nWhat is on the left?"), gpt("the square")],
    },
    {
        "images": ["wide.png", "small.png"],
        "conversations": [human("<image>How many?"), gpt("one"), human("And here?\n<image>"), gpt("two")],
    },
]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, (name, size) in enumerate(SIZES.items()):
        noise(*size, seed=seed).save(folder / name)
    return folder


def chat_format(folder: Path, **settings: Any) -> ChatFormat:
    made = input_format(folder, ModelConfig(base=str(folder), template="chat_template", **settings))
    assert isinstance(made, ChatFormat)
    return made


def source_of(records: list[dict[str, Any]], pictures: Path, inputs: Any, folder: Path) -> DataSource:
    (folder / "data.json").write_text(json.dumps(records))
    return DataSource(open_records(folder / "data.json", pictures), inputs)


def usable(source: DataSource) -> list[Sample]:
    samples, bad = source.samples(range(len(source.records)))
    assert not bad
    return samples


def filled(tensor: torch.Tensor) -> torch.Tensor:
    """Of tiles [images, tiles, ...] those that are there, without the zeros that fill up to the most tiles."""
    if tensor.dim() < 4:
        return tensor
    tiles = tensor.flatten(0, 1)
    return tiles[tiles.flatten(1).any(1)]


@pytest.mark.parametrize("name", VISION)
def test_ids_and_image_tensors_are_the_processors_own(
    name: str, models: Models, pictures: Path, tmp_path: Path
) -> None:
    made = chat_format(models[name])
    source = source_of(RECORDS, pictures, made, tmp_path)
    for sample, record in zip(usable(source), RECORDS, strict=True):
        messages = []
        for turn in record["conversations"]:
            parts: list[dict[str, str]] = []
            text = re.sub(r"^\s*((?:<image>\s*)+)", lambda m: "<image>" * m[0].count("<image>"), turn["value"])
            text = re.sub(r"\s*((?:<image>\s*)+)$", lambda m: "<image>" * m[0].count("<image>"), text)
            for piece in text.replace("<image>", "\0<image>\0").split("\0"):
                if piece == "<image>":
                    parts.append({"type": "image"})
                elif piece:
                    parts.append({"type": "text", "text": piece})
            messages.append({"role": {"human": "user", "gpt": "assistant"}[turn["from"]], "content": parts})
        text = made.processor.apply_chat_template(messages, tokenize=False)
        images = [Image.open(path) for path in sample.images]
        expected = made.processor(
            text=[text],
            images=[images] if images else None,
            add_special_tokens=not text.startswith("<s>"),
            return_tensors="pt",
        )
        ids = expected["input_ids"][0].tolist()
        assert sample.tokens.ids == ids[: len(sample.tokens.ids)]
        batch, _ = make_batch([sample], made)
        assert batch is not None
        ours = stack_images(batch.shown_images)
        for key, tensor in ours.items():
            torch.testing.assert_close(filled(tensor), filled(expected[key]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "end"),
    [("qwen2_vl", "<|im_end|>"), ("idefics3", "<end_of_utterance>"), ("llava_next", "</s>"), ("llama", "<|im_end|>")],
)
def test_answers_and_the_end_of_their_turn_are_predicted(
    name: str, end: str, models: Models, pictures: Path, tmp_path: Path
) -> None:
    made = chat_format(models[name])
    records = RECORDS if name in VISION else TEXT_RECORDS
    for sample, record in zip(usable(source_of(records, pictures, made, tmp_path)), records, strict=True):
        answers = [turn["value"] for turn in record["conversations"] if turn["from"] == "gpt"]
        predicted = made.tokenizer.decode([label for label in sample.tokens.labels if label != IGNORE])
        assert predicted.replace(" ", "") == "".join(f"{answer}{end}" for answer in answers).replace(" ", "")
        assert sample.tokens.labels[-1] == made.tokenizer.convert_tokens_to_ids(end)


@pytest.mark.parametrize("name", RUN)
def test_gradients_equal_autograd_one_at_a_time(name: str, models: Models, pictures: Path, tmp_path: Path) -> None:
    config = ModelConfig(
        base=str(models[name]), dtype="float32", device="cpu", template="chat_template", lora=LoraConfig(r=4, alpha=8)
    )
    model: VisionLanguageModel = attach_fresh_lora(load_base(config), config.lora)
    model.peft.requires_grad_(False).eval()
    randomise_lora(model.peft)
    source = source_of(RECORDS if name in VISION else TEXT_RECORDS, pictures, model.inputs, tmp_path)
    samples = usable(source)
    batch, bad = make_batch(samples, model.inputs)
    assert batch is not None
    assert not bad
    found: dict[str, torch.Tensor] = {}
    losses = backpropagate(model.forward_pass(model.lora_pairs(), batch), found.__setitem__)
    expected, expected_losses = sequential_gradients(model, source, samples)
    torch.testing.assert_close(losses.mean_B, torch.tensor(expected_losses), rtol=1e-5, atol=1e-5)
    for index in range(len(samples)):
        ours = torch.cat([found[key][index] for key in found])
        oracle = torch.cat([expected[index][key].flatten() for key in found])
        assert (ours - oracle).norm() / oracle.norm() < 1e-5, RECORDS[index]
    halves = [batch.part(0, 3), batch.part(3, len(samples))] if len(samples) > 3 else []
    for half, start in zip(halves, (0, 3), strict=False):
        part: dict[str, torch.Tensor] = {}
        backpropagate(model.forward_pass(model.lora_pairs(), half), part.__setitem__)
        for key in part:
            torch.testing.assert_close(part[key], found[key][start : start + len(half.rows)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUN)
def test_a_run_ends_in_a_selection(name: str, models: Models, pictures: Path, tmp_path: Path) -> None:
    records = RECORDS if name in VISION else TEXT_RECORDS
    (tmp_path / "train.json").write_text(json.dumps(records * 5))
    (tmp_path / "task.json").write_text(json.dumps(records))
    shutil.copytree(pictures, tmp_path / "images")
    config = {
        "output_dir": "run",
        "model": {
            "base": str(models[name]),
            "dtype": "float32",
            "device": "cpu",
            "template": "chat_template",
            "lora": {"r": 4, "alpha": 8},
        },
        "train": {"data": "train.json", "images": "images"},
        "warmup": {"fraction": 0.5, "max_steps": 2, "batch_size": 4},
        "tasks": [{"name": "one", "data": "task.json", "images": "images"}],
        "gradients": {"dim": 256, "shard_rows": 16},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    checked = icons("validate", tmp_path / "config.yaml")
    assert checked.code == 0, checked.out + checked.err
    outcome = icons("run", tmp_path / "config.yaml")
    assert outcome.code == 0, outcome.err
    selected = json.loads((tmp_path / "run" / "selection" / "vote-20" / "selected_indices.json").read_text())
    assert len(selected["indices"]) == len(records)
    assert selected["num_invalid"] == 0
    shown = icons("inspect", tmp_path / "config.yaml", "--row", len(records) - 1)
    assert shown.code == 0, shown.err
    assert "[[" in shown.out


def test_what_a_chat_template_cannot_take_is_refused(models: Models, pictures: Path, tmp_path: Path) -> None:
    missing = {"image": "nowhere.png", "conversations": [human("<image>\nWhat?"), gpt("no")]}
    placeholder = {"conversations": [human("What does <|image_pad|> mean?"), gpt("an image")]}
    made = chat_format(models["qwen2_vl"])
    _, bad = source_of([missing, placeholder], pictures, made, tmp_path).samples([0, 1])
    assert "does not exist" in bad[0].reason
    assert "the chat template wrote 1 image placeholders for 0 images" in bad[1].reason
    _, bad = source_of([RECORDS[2]], pictures, chat_format(models["llama"]), tmp_path).samples([0])
    assert "the model reads text alone" in bad[0].reason


def test_a_cut_inside_an_image_is_refused(models: Models, pictures: Path, tmp_path: Path) -> None:
    _, bad = source_of(RECORDS[2:3], pictures, chat_format(models["qwen2_vl"], max_length=50), tmp_path).samples([0])
    assert "cuts inside the image" in bad[0].reason


def refusal(model: Path, folder: Path, *sets: str) -> str:
    config = {
        "output_dir": "run",
        "model": {"base": str(model), "template": "chat_template", "device": "cpu"},
        "train": {"data": "train.json"},
        "tasks": [{"name": "one", "data": "train.json"}],
    }
    (folder / "train.json").write_text(json.dumps(TEXT_RECORDS))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    outcome = icons("validate", folder / "config.yaml", *[part for each in sets for part in ("--set", each)])
    assert outcome.code == 2
    return outcome.out


def test_a_template_that_the_model_cannot_have_is_refused(models: Models, tmp_path: Path) -> None:
    text = refusal(models["qwen2_vl"], tmp_path, "model.template=vicuna_v1")
    assert "is a qwen2_vl model; template vicuna_v1 needs llava" in text
    shutil.copytree(models["llama"], tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    assert "has no chat template" in refusal(tmp_path / "bare", tmp_path)


def test_answers_that_look_like_the_template_keep_their_place(models: Models, tmp_path: Path) -> None:
    made = chat_format(models["llama"])
    record = {"conversations": [human("assistant\nuser"), gpt("assistant"), human("assistant"), gpt("user\nassistant")]}
    (sample,) = usable(source_of([record], tmp_path, made, tmp_path))
    predicted = made.tokenizer.decode([label for label in sample.tokens.labels if label != IGNORE])
    assert predicted.replace(" ", "") == "assistant<|im_end|>user\nassistant<|im_end|>"


def test_code_in_a_model_folder_is_not_run_unasked(models: Models, tmp_path: Path) -> None:
    shutil.copytree(models["llama"], tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    (tmp_path / "own" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "trust_remote_code" in refusal(tmp_path / "own", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_several_images_are_refused_where_the_processor_treats_them_otherwise(
    models: Models, pictures: Path, tmp_path: Path
) -> None:
    """LLaVA-OneVision gives each of several images of one text one tile."""
    made = chat_format(models["llava_onevision"])
    samples, bad = source_of(RECORDS, pictures, made, tmp_path).samples(range(len(RECORDS)))
    assert [sample.row for sample in samples] == [0, 1, 2, 3]
    assert all("2 images; this model's processor treats several" in record.reason for record in bad)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hyperclovax", "makes its logits in a way that is not supported"),
        ("qwen2_moe", "per-sample gradients of Qwen2MoeForCausalLM cannot be taken"),
        ("mamba", "PEFT cannot adapt MambaForCausalLM"),
    ],
)
def test_models_whose_arithmetic_is_not_known_are_refused(
    name: str, words: str, models: Models, tmp_path: Path
) -> None:
    try:
        folder = models[name]
    except AttributeError:
        pytest.skip(f"this transformers has no {name}")
    (tmp_path / "train.json").write_text(json.dumps(TEXT_RECORDS * 5))
    config = {
        "output_dir": "run",
        "model": {"base": str(folder), "dtype": "float32", "device": "cpu", "template": "chat_template"},
        "train": {"data": "train.json"},
        "tasks": [{"name": "one", "data": "train.json"}],
        "gradients": {"dim": 256},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    outcome = icons("warmup", tmp_path / "config.yaml")
    assert outcome.code == 2, outcome.out + outcome.err
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_an_edited_chat_template_is_another_model(models: Models, tmp_path: Path) -> None:
    shutil.copytree(models["llama"], tmp_path / "edited")
    before = model_digest(tmp_path / "edited")
    template = tmp_path / "edited" / "chat_template.jinja"
    template.write_text(template.read_text().replace("You help.", "You sail."))
    assert model_digest(tmp_path / "edited") != before
