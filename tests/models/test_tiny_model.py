"""The tiny LLaVA is a real one: it loads without a word, and its tokenizer keeps Llama's rules."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from icons.models.tiny import BENCHMARK, TINY, TinySize, build_tiny_llava


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    build_tiny_llava(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_loads_whole_and_in_float32(folder: Path) -> None:
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_another_process_builds_the_same_bytes_and_loads_them_without_a_word(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import torch; torch.manual_seed(99)\n"
        "from pathlib import Path\n"
        "from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration\n"
        "from icons.models.tiny import build_tiny_llava\n"
        "build_tiny_llava(Path(sys.argv[1]))\n"
        "from transformers.utils import logging; logging.disable_progress_bar()\n"
        "for kind in (LlavaForConditionalGeneration, AutoProcessor, AutoTokenizer): kind.from_pretrained(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert digests(tmp_path) == digests(folder)


def test_another_seed_changes_the_weights_alone(folder: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    build_tiny_llava(tmp_path, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    ours, theirs = digests(tmp_path), digests(folder)
    assert {name for name in theirs if ours[name] != theirs[name]} == {"model.safetensors", "README.md"}


def test_weights_can_be_read_by_whoever_reads_the_config(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_a_picture_and_a_question_give_an_answer(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    inputs = processor(
        images=Image.new("RGB", (64, 48), (200, 30, 30)),
        text="USER: <image>\nWhat color? ASSISTANT:",
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == TINY.image_tokens
    with torch.no_grad():
        logits = model(**inputs).logits
        inputs["pixel_values"] = -inputs["pixel_values"]
        other = model(**inputs).logits
    assert logits.shape == (1, inputs["input_ids"].shape[1], len(processor.tokenizer))
    assert torch.isfinite(logits).all()
    assert not torch.allclose(logits[0, -1], other[0, -1], atol=1e-3)


def test_pictures_are_padded_to_a_square_not_cropped(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder).image_processor
    wide = Image.new("RGB", (96, 48), (0, 0, 255))
    wide.paste((255, 0, 0), (0, 0, 8, 48))  # a centre crop would lose this edge
    pixels = processor(wide, return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (3, TINY.image_size, TINY.image_size)
    middle = TINY.image_size // 2
    assert pixels[0, middle, 0] > pixels[2, middle, 0]
    assert pixels[:, 0].abs().max() < 0.02  # the mean colour, normalised


def test_special_tokens_have_their_places(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id == 1
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.image_token_id) == (2, 3, 4)
    assert len(tokenizer) == TINY.vocab


def test_no_piece_crosses_a_word_boundary(tokenizer: Any) -> None:
    assert [piece for piece in tokenizer.get_vocab() if "▁" in piece.lstrip("▁")] == []


@pytest.mark.parametrize("answer", ["Red", "3", "(b)", ": yes", "été"])
def test_the_prompt_always_ends_at_its_colon(tokenizer: Any, answer: str) -> None:
    prompt = tokenizer("USER: What? ASSISTANT:").input_ids
    whole = tokenizer(f"USER: What? ASSISTANT: {answer}</s>").input_ids
    assert whole[: len(prompt)] == prompt
    assert tokenizer.convert_ids_to_tokens(prompt[-1]) == ":"
    assert whole[-1] == tokenizer.eos_token_id


def test_demo_words_are_single_pieces(tokenizer: Any) -> None:
    assert tokenizer.tokenize("Red Circle Left ASSISTANT") == ["▁Red", "▁Circle", "▁Left", "▁ASSISTANT"]
    assert tokenizer.tokenize("a\nWhat 12") == ["▁a", "<0x0A>", "What", "▁", "1", "2"]


@pytest.mark.parametrize("text", ["naïve café", "日本語 😀", "two  spaces", "a\n\tb", "literal <0x0A>", "zażółć"])
def test_any_text_survives_the_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_own_texts_train_the_tokenizer(tmp_path: Path) -> None:
    build_tiny_llava(tmp_path, texts=["xylophone quartz"] * 3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("xylophone") == ["▁xylophone"]
    assert len(tokenizer.tokenize("question")) > 1
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == len(tokenizer) < TINY.vocab


def test_benchmark_size_is_what_the_readme_measures(tmp_path: Path) -> None:
    build_tiny_llava(tmp_path, size=BENCHMARK)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert 4.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 5.5e6
    assert model.config.image_seq_length == BENCHMARK.image_tokens == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_layers": 1}, "vision_layers"),
        ({"patch_size": 7}, "patch_size"),
        ({"text_heads": 5}, "heads"),
        ({"vocab": 300}, "vocab"),
    ],
)
def test_an_impossible_size_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TinySize(**{**TINY.__dict__, **change})
