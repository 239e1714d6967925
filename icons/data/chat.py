"""A model's own chat template: the text it writes of a conversation, and where the answers stand in it.

The template is rendered twice, the second time with a mark in the place of every answer: what lies between the marks is
the template's, so the answers' places are known exactly and no answer is searched for in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from icons.data.conversation import IMAGE_TAG, Conversation, Turn, require_tags
from icons.data.tokens import IMAGE_ID, Prompt, Tokens, labelled
from icons.errors import BadRecordError

Render = Callable[[list[dict[str, Any]]], str]
"""Takes the messages of a conversation and returns the template's text of them."""


def render_chat(conversation: Conversation, render: Render, ends: Sequence[str], image: str | None) -> Prompt:
    """The rendered text; a span is an answer and the token among `ends` (added tokens) that closes its turn, if any.

    `image` is what the template writes for an image; None for a model that reads text alone, whose messages hold plain
    strings. Raises BadRecordError when the template refuses the conversation or rewrites an answer.
    """
    require_tags(conversation)
    if conversation.images and not image:
        raise BadRecordError("an image, but the model reads text alone")
    answers = [turn.text for turn in conversation.turns if turn.speaker == "gpt"]
    marks = [f"\ue000{number}\ue001" for number in range(len(answers))]
    try:
        text = render(_messages(conversation, answers, image is not None))
        skeleton = render(_messages(conversation, marks, image is not None))
    except Exception as error:  # a template raises what its author chose
        raise BadRecordError(f"the chat template refuses the conversation ({error})") from None
    placeholders = text.count(image) if image else 0
    if placeholders != len(conversation.images):
        raise BadRecordError(
            f"the chat template wrote {placeholders} image placeholders for {len(conversation.images)} images"
        )
    predicted = [turn.predicted for turn in conversation.turns if turn.speaker == "gpt"]
    return Prompt(text, _spans(text, skeleton, answers, marks, ends, predicted), len(conversation.images))


def tokenise_chat(prompts: Sequence[Prompt], tokenizer: Any, image: str | None) -> list[Tokens]:
    """Ids and labels for each prompt, IMAGE_ID for the token `image`; one call of the (fast) tokenizer for them all.

    A processor (`image` is given) adds its special tokens unless the template has written the beginning-of-sequence
    token; a tokenizer alone adds none, as the template writes all. Both as Hugging Face's `apply_chat_template` does.
    """
    image_id = None if image is None else tokenizer.convert_tokens_to_ids(image)
    tokens: list[Tokens | None] = [None] * len(prompts)
    bos = tokenizer.bos_token
    for added in (False, True):
        group = [
            i
            for i, prompt in enumerate(prompts)
            if added == (image is not None and not (bos and prompt.text.startswith(bos)))
        ]
        if not group:
            continue
        encoded = tokenizer(
            [prompts[i].text for i in group],
            add_special_tokens=added,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for i, ids, offsets in zip(group, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            places = [IMAGE_ID if token == image_id else token for token in ids]
            tokens[i] = labelled(places, offsets, prompts[i].spans)
    return [each for each in tokens if each is not None]


def predicts_the_end(render: Render, ends: Sequence[str], with_parts: bool) -> bool:
    """Whether an end of an answer is among what is predicted: without it a model never learns to stop."""
    turns = (Turn("human", "Which?"), Turn("gpt", "This."))
    prompt = render_chat(Conversation(turns, ()), render, ends, "" if with_parts else None)
    start, stop = prompt.spans[0]
    return prompt.text[start:stop].strip() != "This."


def _messages(conversation: Conversation, answers: Sequence[str], with_parts: bool) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if conversation.system is not None:
        content = [{"type": "text", "text": conversation.system}] if with_parts else conversation.system
        messages.append({"role": "system", "content": content})
    for number, turn in enumerate(conversation.turns):
        text = turn.text if turn.speaker == "human" else answers[number // 2]
        role = {"human": "user", "gpt": "assistant"}[turn.speaker]
        messages.append({"role": role, "content": parts_of(text) if with_parts else text})
    return messages


def parts_of(text: str) -> list[dict[str, str]]:
    """Text and images in the order of the record.

    White space beside an image at either end of the text is the record's layout and dropped; within it, it is content.
    """
    pieces = text.split(IMAGE_TAG)
    if len(pieces) == 1:
        return [{"type": "text", "text": text}]
    filled = [number for number, piece in enumerate(pieces) if piece.strip()]
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append({"type": "image"})
        if not filled or not filled[0] <= number <= filled[-1]:
            continue
        if number == filled[0] and number > 0:
            piece = piece.lstrip()
        if number == filled[-1] and number < len(pieces) - 1:
            piece = piece.rstrip()
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _spans(
    text: str,
    skeleton: str,
    answers: Sequence[str],
    marks: Sequence[str],
    ends: Sequence[str],
    predicted: Sequence[bool],
) -> list[tuple[int, int]]:
    """Walks along the skeleton; an answer that is empty or not to be predicted has no span."""
    pieces: list[str] = []
    rest = skeleton
    for number, mark in enumerate(marks):
        if rest.count(mark) != 1:
            raise BadRecordError(f"the chat template drops or repeats answer {number}; its place is not known")
        piece, rest = rest.split(mark)
        pieces.append(piece)
    pieces.append(rest)
    if not text.startswith(pieces[0]):
        raise BadRecordError("the chat template's beginning depends on the answers; their place is not known")
    end = next((token for token in ends if rest.lstrip().startswith(token)), None)
    spans, at = [], 0
    for number, answer in enumerate(answers):
        at += len(pieces[number])
        for written in (answer, answer.strip()):
            if text.startswith(written + pieces[number + 1], at):
                break
        else:
            raise BadRecordError(f"the chat template rewrites answer {number}; its place is not known")
        start, at = at, at + len(written)
        gap = len(pieces[number + 1]) - len(pieces[number + 1].lstrip())
        closed = end is not None and pieces[number + 1].startswith(end, gap)
        if written and predicted[number]:
            spans.append((start, at + gap + len(end or "") if closed else at))
    return spans
