"""Conversations to token ids and labels, as LLaVA's `v1` template (Vicuna) writes them.

Pure: conversations and a tokenizer in, ids and labels out. The image is one id, IMAGE_ID, until the model's number of
image tokens is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icons.data.conversation import IMAGE_TAG, Conversation
from icons.errors import BadRecordError

IMAGE_ID = -200
IGNORE = -100

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Tokens:
    """`ids` and `labels` of equal length; a label is IGNORE (-100) wherever nothing is to be predicted."""

    ids: list[int]
    labels: list[int]

    @property
    def num_targets(self) -> int:
        """Positions with a label, the first one aside: nothing comes before it that could predict it."""
        return sum(label != IGNORE for label in self.labels[1:])


@dataclass(frozen=True)
class Prompt:
    """The whole conversation as text, and the character spans [start, stop) that are to be predicted."""

    text: str
    spans: list[tuple[int, int]]


def render_vicuna_v1(conversation: Conversation, eos: str = "</s>") -> Prompt:
    """`SYSTEM USER: ... ASSISTANT: ...</s>USER: ...`; a span runs from behind `ASSISTANT:` through `</s>`.

    An empty turn is its role alone, without `</s>`, and nothing of it is predicted.
    """
    text, spans = VICUNA_SYSTEM + " ", []
    for turn in conversation.turns:
        if not turn.text:
            text += {"human": "USER:", "gpt": "ASSISTANT:"}[turn.speaker]  # as LLaVA's own code: nothing follows
        elif turn.speaker == "human":
            text += f"USER: {turn.text} "
        else:
            start = len(text) + len("ASSISTANT:")
            text += f"ASSISTANT: {turn.text}{eos}"
            spans.append((start, len(text)))
    return Prompt(text, spans)


def encode(conversations: Sequence[Conversation], tokenizer: Any) -> list[Tokens]:
    """Ids and labels for each conversation; one call of the (fast) tokenizer for all of them.

    The text is tokenised piece by piece around `<image>` and the pieces joined, the extra beginning-of-sequence ids
    dropped, as LLaVA's `tokenizer_image_token` does. A token is a label when it begins inside a span.
    """
    prompts = [render_vicuna_v1(conversation, tokenizer.eos_token) for conversation in conversations]
    split = [p.text.split(IMAGE_TAG) if c.image else [p.text] for p, c in zip(prompts, conversations, strict=True)]
    pieces = [piece for texts in split for piece in texts]
    encoded = tokenizer(pieces, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    tokens, at = [], 0
    for prompt, texts in zip(prompts, split, strict=True):
        ids, begins = (
            encoded["input_ids"][at : at + len(texts)],
            encoded["offset_mapping"][at : at + len(texts)],
        )
        at += len(texts)
        tokens.append(_join(prompt, texts, ids, begins, tokenizer.bos_token_id))
    return tokens


def _join(
    prompt: Prompt,
    texts: list[str],
    ids: list[list[int]],
    offsets: list[list[tuple[int, int]]],
    bos: int | None,
) -> Tokens:
    joined: list[int] = []
    begins: list[int] = []
    base = 0
    for index, text in enumerate(texts):
        skip = int(index > 0 and bool(ids[index]) and ids[index][0] == bos)
        if index > 0:
            joined.append(IMAGE_ID)
            begins.append(-1)
            base += len(IMAGE_TAG)
        joined += ids[index][skip:]
        begins += [base + start for start, _ in offsets[index][skip:]]
        base += len(text)
    labels = [IGNORE] * len(joined)
    spans = iter(prompt.spans)
    span = next(spans, None)
    for position, begin in enumerate(begins):
        while span is not None and begin >= span[1]:
            span = next(spans, None)
        if span is not None and begin >= span[0] and joined[position] != IMAGE_ID:
            labels[position] = joined[position]
    return Tokens(joined, labels)


def expand_image(tokens: Tokens, image_token_id: int, num_image_tokens: int, max_length: int) -> Tokens:
    """Puts the image's tokens in the place of IMAGE_ID and cuts at `max_length` tokens.

    Raises BadRecordError when the cut would fall inside the image or leave no answer.
    """
    ids, labels = tokens.ids, tokens.labels
    if IMAGE_ID in ids[:max_length]:
        at = ids.index(IMAGE_ID)
        if at + num_image_tokens > max_length:
            raise BadRecordError(
                f"max_length {max_length} cuts inside the image ({num_image_tokens} tokens from position {at}); "
                "raise model.max_length"
            )
        ids = [*ids[:at], *[image_token_id] * num_image_tokens, *ids[at + 1 :]]
        labels = [*labels[:at], *[IGNORE] * num_image_tokens, *labels[at + 1 :]]
    cut = Tokens(ids[:max_length], labels[:max_length])
    if cut.num_targets == 0:
        cause = f"max_length {max_length} cuts the whole answer off" if tokens.num_targets else "no answer token"
        raise BadRecordError(f"{cause} ({len(ids)} tokens); nothing is left to learn from")
    return cut
