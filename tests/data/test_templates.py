"""Token ids and labels: LLaVA's own where its vectors are at hand, and the properties that define them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import AutoTokenizer

from icons.data.conversation import Turn, parse_record
from icons.data.tokens import IGNORE, IMAGE_ID, Tokens, expand_images
from icons.data.vicuna import render_vicuna, tokenise_vicuna
from icons.errors import BadRecordError
from tests.conftest import SHARED_DATA

VECTORS = SHARED_DATA / "llava_v1_vectors"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def talk(*texts: str, image: str | None = None) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"conversations": turns} | ({"image": image} if image else {})


def encode(records: list[dict[str, Any]], tokenizer: Any) -> list[Tokens]:
    return tokenise_vicuna([render_vicuna(parse_record(record)) for record in records], tokenizer)


@pytest.mark.skipif(not VECTORS.is_dir(), reason="LLaVA's own vectors are not at hand (../shared/data)")
def test_ids_and_labels_are_llavas_own() -> None:
    tokenizer = AutoTokenizer.from_pretrained(VECTORS / "tokenizer")
    records = json.loads((VECTORS / "vectors.json").read_text())
    assert len(records) >= 8
    together = encode(records, tokenizer)
    for record, tokens in zip(records, together, strict=True):
        assert tokens == Tokens(record["input_ids"], record["labels"]), record["id"]
        assert encode([record], tokenizer) == [tokens]


def by_hand(record: dict[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """The same by LLaVA's rule of lengths: tokenise each round alone, mask its instruction but for two tokens."""
    conversation = parse_record(record)
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    )
    turns = [
        Turn(t.speaker, f"<image>\n{t.text.replace('<image>', '').strip()}".strip()) if "<image>" in t.text else t
        for t in conversation.turns
    ]
    rounds = [f"USER: {q.text} ASSISTANT: {a.text}" for q, a in zip(turns[::2], turns[1::2], strict=True)]
    rounds[0] = system + rounds[0]

    def ids_of(text: str) -> list[int]:
        pieces = [tokenizer(piece).input_ids for piece in text.split("<image>")]
        joined = pieces[0]
        for piece in pieces[1:]:
            joined = [*joined, IMAGE_ID, *piece[1:]]
        return joined

    ids = ids_of("</s>".join(rounds) + "</s>")
    labels, at = list(ids), 1
    labels[0] = IGNORE
    for text in rounds:
        instruction = text[: text.index(" ASSISTANT: ")] + " ASSISTANT: "
        masked = len(ids_of(instruction)) - 2
        labels[at : at + masked] = [IGNORE] * masked
        at += len(ids_of(text))
    assert at == len(ids)
    return ids, labels


@pytest.mark.parametrize(
    "record",
    [
        talk("<image>\nWhat colour?", "Red", image="a.png"),
        talk("How many? <image>", "Three.", "Sure?", "Yes, three.", "And now?", "Still three.", image="a.png"),
        talk("Write a poem.", "Waves roll in,\nwaves roll out.\n\nEnd."),
        talk("<image>\n图中有什么？", "猫 🐱 naïve", image="a.png"),
        talk("<image>\n  spaces   inside  ", "  yes  ", image="a.png"),
        talk("USER: who?", "The user's USER"),
    ],
)
def test_labels_agree_with_an_independent_implementation(record: dict[str, Any], tokenizer: Any) -> None:
    (tokens,) = encode([record], tokenizer)
    assert (tokens.ids, tokens.labels) == by_hand(record, tokenizer)


WORDS = [
    "red",
    "Circle",
    "a",
    "3.5",
    "naïve",
    "猫",
    "🐱",
    "x=1;",
    "USER",
    "don't",
    "ASSISTANT",
    "<s",
    "%%",
    "\t",
    "\u00a0",
]


def random_talk(rng: Random) -> dict[str, Any]:
    def text() -> str:
        return "".join(
            rng.choice(WORDS) + rng.choice([" ", " ", "  ", "\n", "\n\n", ", "]) for _ in range(rng.randint(1, 12))
        )

    texts = [text() for _ in range(2 * rng.randint(1, 4))]
    if rng.random() < 0.6:
        shown = 2 * rng.randrange(len(texts) // 2)
        at = rng.choice([0, len(texts[shown])])
        texts[shown] = texts[shown][:at] + rng.choice(["<image>", "<image>\n", "\n<image>"]) + texts[shown][at:]
        return talk(*texts, image="a.png")
    return talk(*texts)


@pytest.mark.parametrize("folder", ["tiny", "vectors"])
def test_random_conversations_agree_with_an_independent_implementation(folder: str, tiny_model: Path) -> None:
    if folder == "vectors" and not VECTORS.is_dir():
        pytest.skip("LLaVA's own tokenizer is not at hand (../shared/data)")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model if folder == "tiny" else VECTORS / "tokenizer")
    rng = Random(0)
    records = [random_talk(rng) for _ in range(300)]
    for record, tokens in zip(records, encode(records, tokenizer), strict=True):
        assert (tokens.ids, tokens.labels) == by_hand(record, tokenizer), record


def test_only_answers_and_their_end_are_predicted(tokenizer: Any) -> None:
    record = talk("<image>\nWhat colour is the circle?", "dark red", "And the square?", "blue", image="a.png")
    (tokens,) = encode([record], tokenizer)
    predicted = tokenizer.decode([label for label in tokens.labels if label != IGNORE])
    assert predicted.split() == ["dark", "red</s>", "blue</s>"]
    assert tokens.ids.count(IMAGE_ID) == 1


def test_an_answer_that_looks_like_the_template_is_still_the_answer(tokenizer: Any) -> None:
    (tokens,) = encode([talk("Say it.", "USER: hi ASSISTANT: ho")], tokenizer)
    assert (
        tokenizer.decode([label for label in tokens.labels if label != IGNORE]).strip() == "USER: hi ASSISTANT: ho</s>"
    )


def test_an_empty_answer_is_its_role_alone(tokenizer: Any) -> None:
    (tokens,) = encode([talk("One?", "", "Two?", "yes")], tokenizer)
    assert "ASSISTANT:USER: Two?" in tokenizer.decode(tokens.ids)
    assert tokenizer.decode([label for label in tokens.labels if label != IGNORE]).split() == ["yes</s>"]


def test_an_image_behind_the_cut_is_cut_with_the_rest() -> None:
    tokens = Tokens([1, 5, 6, IMAGE_ID, 7, 8], [IGNORE, IGNORE, 6, IGNORE, IGNORE, 8])
    assert expand_images(tokens, [[9] * 4], 3)[0].ids == [1, 5, 6]


def test_the_image_is_expanded_and_the_end_cut() -> None:
    tokens = Tokens([1, IMAGE_ID, 5, 6, 7, 8], [IGNORE, IGNORE, IGNORE, 6, 7, 8])
    full, ends = expand_images(tokens, [[9] * 3], 100)
    assert ends == [4]
    assert full.ids == [1, 9, 9, 9, 5, 6, 7, 8]
    assert full.labels == [IGNORE] * 5 + [6, 7, 8]
    assert expand_images(tokens, [[9] * 3], 6)[0].labels == [IGNORE] * 5 + [6]


@pytest.mark.parametrize(("max_length", "words"), [(3, "cuts inside the image"), (5, "cuts the whole answer off")])
def test_a_cut_that_leaves_nothing_is_refused(max_length: int, words: str) -> None:
    tokens = Tokens([1, IMAGE_ID, 5, 6], [IGNORE, IGNORE, IGNORE, 6])
    with pytest.raises(BadRecordError, match=words):
        expand_images(tokens, [[9] * 3], max_length)


def test_llavas_own_way_with_image_tags(tokenizer: Any) -> None:
    """An <image> without an image is text, several in a turn are one, an image that nobody speaks of is not shown."""
    literal = talk("What does <image> stand for?", "For <image>, a tag.")
    (tokens,) = encode([literal], tokenizer)
    assert IMAGE_ID not in tokens.ids
    assert tokenizer.convert_tokens_to_ids("<image>") not in tokens.ids
    assert "What does <image> stand for? ASSISTANT: For <image>, a tag." in tokenizer.decode(tokens.ids)
    predicted = [label for label in tokens.labels if label != IGNORE]
    assert tokenizer.decode(predicted).strip() == "For <image>, a tag.</s>"
    twice, once = talk("<image> What? <image>", "x", image="a.png"), talk("<image>\nWhat?", "x", image="a.png")
    assert encode([twice], tokenizer) == encode([once], tokenizer)
    assert encode([talk("What?", "x", image="a.png")], tokenizer) == encode([talk("What?", "x")], tokenizer)
    for record, words in [
        (talk("<image> a", "b", "<image> c", "d", image="a.png"), "in 2 turns for one image"),
        (talk("a", "<image> b", image="a.png"), "in a gpt turn"),
        (talk("<im<image>age> a", "b", image="a.png"), "leaves another one"),
    ]:
        with pytest.raises(BadRecordError, match=words):
            encode([record], tokenizer)


@pytest.mark.skipif(not VECTORS.is_dir(), reason="LLaVA's own vectors are not at hand (../shared/data)")
def test_a_tag_without_an_image_is_spelled_as_llavas_tokenizer_does() -> None:
    """LLaVA's tokenizer knows no <image>; Hugging Face's copy of it has one added."""
    record = talk("What does <image> stand for?", "For <image>, a tag.")
    theirs, ours = (AutoTokenizer.from_pretrained(VECTORS / "tokenizer") for _ in range(2))
    ours.add_tokens(["<image>"], special_tokens=True)
    assert encode([record], ours) == encode([record], theirs)
