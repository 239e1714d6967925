"""Chat templates and tokenizers as they come: what is predicted is the answer and its end, character by character."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from icons.config import ModelConfig
from icons.data.chat import parts_of, render_chat, tokenise_chat
from icons.data.conversation import parse_record
from icons.data.formats import ChatFormat
from icons.data.tokens import IGNORE, labelled
from icons.data.vicuna import render_vicuna, tokenise_vicuna
from icons.models.formats import input_format
from tests.conftest import icons
from tests.vision_models import CHATML, text_llama

ANSWERS = [
    *("Yes.", " leading and trailing ", "two  blanks", "line\nbreak", "\nfirst", "Ünïcödé ß", "日本語のテスト"),
    *("\U0001f642\U0001f469\u200d\U0001f467 x", "a\tb", "1,234.5%", "don't", "<b>bold</b>"),
    *("e\u0301 combining", "\u200bzero", "x" * 50),
]
"""What a tokenizer may split, drop or merge in its own way."""


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(ANSWERS * 3, trainer)
    return made


def sentence_piece() -> Tokenizer:
    from icons.models.tiny import train_tokenizer

    return train_tokenizer(ANSWERS * 3, vocab=700)


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(ANSWERS * 3, trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[UNK]"]))
    return made


MAKERS = {"byte-level": byte_level, "SentencePiece": sentence_piece, "WordPiece": word_piece}


def rendered(messages: list[dict[str, Any]]) -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_labelled_text_is_the_answer(kind: str) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=MAKERS[kind]())
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    for answer in ANSWERS:
        turns = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": answer}]
        prompt = render_chat(parse_record({"conversations": turns}), rendered, ["<|im_end|>"], None)
        (tokens,) = tokenise_chat([prompt], tokenizer, None)
        places = [place for place, label in enumerate(tokens.labels) if label != IGNORE]
        assert places == list(range(places[0], places[-1] + 1)), "no hole in what is predicted"
        own = tokenizer(answer, add_special_tokens=False)["input_ids"]
        predicted = tokenizer.decode([tokens.ids[place] for place in places], skip_special_tokens=False)
        expected = tokenizer.decode([*own, tokenizer.convert_tokens_to_ids("<|im_end|>")])
        squeezed = [text.replace(" ", "").strip() for text in (predicted, expected)]
        assert squeezed[0] == squeezed[1], (kind, answer)


def test_a_token_without_characters_belongs_where_it_stands() -> None:
    ids, text = [1, 2, 3, 4, 5, 6, 7], "Q: ab cd."
    offsets = [(0, 0), (0, 2), (3, 4), (0, 0), (6, 7), (8, 8), (8, 9)]
    labels = labelled(ids, offsets, [(3, len(text))]).labels
    assert labels == [IGNORE, IGNORE, 3, 4, 5, 6, 7]


def write_config(folder: Path, model: Path, record: dict[str, Any]) -> Path:
    (folder / "d.json").write_text(json.dumps([record]))
    path = folder / "c.yaml"
    model_line = f"model: {{base: {model}, dtype: float32, device: cpu, template: chat_template, lora: {{r: 2}}}}"
    path.write_text(
        f"output_dir: run\n{model_line}\ntrain: {{data: d.json}}\ntasks: [{{name: t, data: d.json}}]\n"
        "gradients: {dim: 64}\nwarmup: {max_steps: 1, batch_size: 1}\n"
    )
    return path


RECORD = {
    "id": 0,
    "conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "It is red."}],
}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    text_llama(folder)
    return folder


def format_of(folder: Path, **settings: Any) -> ChatFormat:
    made = input_format(folder, ModelConfig(base=str(folder), template="chat_template", **settings))
    assert isinstance(made, ChatFormat)
    return made


def ids_of(made: ChatFormat, record: dict[str, Any] = RECORD) -> list[int]:
    return made.tokenise([made.render(parse_record(record))])[0].ids


def test_ids_of_a_text_model_are_its_tokenizers(llama: Path) -> None:
    """A template that writes no BOS gets none; a prefix that post-processor and template both write stands once."""
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is red."}]
    plain = AutoTokenizer.from_pretrained(llama)
    assert ids_of(format_of(llama)) == plain.apply_chat_template(messages, return_dict=True)["input_ids"]
    plain.add_tokens(["[gMASK]", "<sop>"], special_tokens=True)
    marks = [(token, plain.convert_tokens_to_ids(token)) for token in ("[gMASK]", "<sop>")]
    plain._tokenizer.post_processor = processors.TemplateProcessing(single="[gMASK] <sop> $A", special_tokens=marks)
    plain.bos_token = None
    plain.chat_template = "[gMASK]<sop>" + CHATML
    plain.save_pretrained(llama)
    again = AutoTokenizer.from_pretrained(llama)
    assert ids_of(format_of(llama)) == again.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert ids_of(format_of(llama)).count(marks[0][1]) == 1


def test_several_templates_take_the_default(llama: Path) -> None:
    expected = ids_of(format_of(llama))
    (llama / "chat_template.jinja").unlink(missing_ok=True)
    path = llama / "tokenizer_config.json"
    content = json.loads(path.read_text())
    content["chat_template"] = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "x"}]
    path.write_text(json.dumps(content))
    assert ids_of(format_of(llama)) == expected
    content["chat_template"] = content["chat_template"][1:]
    path.write_text(json.dumps(content))
    outcome = icons("inspect", write_config(llama.parent, llama, RECORD), "--row", 0)
    assert outcome.code == 2
    assert "none is `default`" in outcome.err


def test_an_end_that_is_not_flagged_special_is_predicted(llama: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((llama / name).read_text())
        tokens = [*content.get("added_tokens", []), *(content.get("added_tokens_decoder") or {}).values()]
        for token in tokens:
            token["special"] = token["special"] and not token["content"].startswith("<|im")
        for key in ("extra_special_tokens", "additional_special_tokens"):
            if isinstance(content.get(key), list):
                content[key] = [token for token in content[key] if not str(token).startswith("<|im")]
        (llama / name).write_text(json.dumps(content))
    made = format_of(llama)
    (tokens_,) = made.tokenise([made.render(parse_record(RECORD))])
    assert [label for label in tokens_.labels if label != IGNORE][-1] == made.tokenizer.convert_tokens_to_ids(
        "<|im_end|>"
    )
    assert not made.warnings


def test_a_template_without_an_end_is_told_before_and_while_training(llama: Path) -> None:
    (llama / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}")
    config = write_config(llama.parent, llama, RECORD)
    for command in ("validate", "warmup"):
        outcome = icons(command, config)
        assert outcome.code == 0, outcome.err
        assert "does not learn to stop" in outcome.out, command


def test_today_is_the_same_day_everywhere(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (llama / "chat_template.jinja").write_text("It is {{ strftime_now('%d %B %Y %H') }}. " + CHATML)
    made = format_of(llama)
    text = made.tokenizer.decode(ids_of(made))
    assert "26 July 2024 00" in text
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert ids_of(format_of(llama)) == ids_of(made)
        other = format_of(llama, template_date="2025-01-31")
        assert "31 January 2025" in other.tokenizer.decode(ids_of(other))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_records_own_system_text_is_rendered(llama: Path, tiny_model: Path) -> None:
    record = {**RECORD, "system": "Be brief."}
    made = format_of(llama)
    assert "Be brief." in made.render(parse_record(record)).text
    from icons.errors import BadRecordError

    with pytest.raises(BadRecordError, match="vicuna_v1 always writes LLaVA's"):
        render_vicuna(parse_record(record))


def test_turns_that_are_not_predicted_have_no_label(llama: Path, tiny_model: Path) -> None:
    turns = [
        *RECORD["conversations"],  # type: ignore[misc]
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": "Wrong", "loss": False},
    ]
    made, conversation = format_of(llama), parse_record({"conversations": turns})
    for prompt in (made.render(conversation), render_vicuna(conversation)):
        assert [prompt.text[a:b].strip().startswith("It is red.") for a, b in prompt.spans] == [True]


def test_white_space_within_a_sentence_is_content() -> None:
    def joined(text: str) -> str:
        return "".join(part.get("text", "[]") for part in parts_of(text))

    assert joined("Is <image> bigger than <image> or not?") == "Is [] bigger than [] or not?"
    assert joined("Image 1: <image>\nImage 2: <image>\n\nWhich?") == "Image 1: []\nImage 2: []\n\nWhich?"
    assert joined("<image>\nWhat?") == joined("<image>What?") == joined("<image>  \n What?") == "[]What?"
    assert joined("What?\n<image>") == "What?[]"
    assert joined("<image> <image>\nBoth?") == "[][]Both?"


def test_a_tokenizer_that_adds_its_end_puts_none_before_the_image(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    plain = AutoTokenizer.from_pretrained(folder)
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "It is red."}]
    prompt = render_vicuna(parse_record({"image": "x.png", "conversations": turns}))
    expected = tokenise_vicuna([prompt], plain)
    ends = [(plain.bos_token, plain.bos_token_id), (plain.eos_token, plain.eos_token_id)]
    plain._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{plain.bos_token} $A {plain.eos_token}", special_tokens=ends
    )
    assert tokenise_vicuna([prompt], plain) == expected
