"""Conversations as other programs read them: LLaVA, LLaMA-Factory's sharegpt, messages with tags, messages of parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from icons.data.chat import parts_of
from icons.data.conversation import IMAGE_TAG, Conversation, Turn

ROLES = {"human": "user", "gpt": "assistant"}


def as_trained(conversation: Conversation, *, one_image: bool) -> Conversation:
    """The conversation with as many tags as images, as the gradients have seen it.

    With `one_image` (LLaVA's own template) an image that no turn speaks of is gone, and a turn's tags are one at its
    front. Tags in a record without an image are text and stay.
    """
    if not conversation.images or not one_image:
        return conversation
    if not any(IMAGE_TAG in turn.text for turn in conversation.turns):
        return replace(conversation, images=())
    return replace(conversation, turns=tuple(_image_first(turn) for turn in conversation.turns))


def _image_first(turn: Turn) -> Turn:
    if IMAGE_TAG not in turn.text:
        return turn
    return replace(turn, text=f"{IMAGE_TAG}\n{turn.text.replace(IMAGE_TAG, '').strip()}".strip())


def tags_fit(conversation: Conversation) -> bool:
    """Whether there are as many tags as images, all in human turns: what programs other than LLaVA's own expect."""
    tags = [turn.text.count(IMAGE_TAG) for turn in conversation.turns if turn.speaker == "human"]
    answers = any(IMAGE_TAG in turn.text for turn in conversation.turns if turn.speaker == "gpt")
    return sum(tags) == len(conversation.images) and not answers


def llava(conversation: Conversation, images: list[Any]) -> dict[str, Any]:
    """`conversations` and `image`, a list only where there are several."""
    turns = [{"from": turn.speaker, "value": turn.text, **_mark(turn, "loss")} for turn in conversation.turns]
    shown = {"image": images[0] if len(images) == 1 else images} if images else {}
    return {**shown, **_system(conversation), "conversations": turns}


def sharegpt(conversation: Conversation, images: list[Any]) -> dict[str, Any]:
    """`conversations`, `system` and `images` in every record: `datasets` wants the same columns in each."""
    turns = [{"from": turn.speaker, "value": turn.text} for turn in conversation.turns]
    return {"conversations": turns, "system": conversation.system or "", "images": images}


def messages(conversation: Conversation, images: list[Any]) -> dict[str, Any]:
    """`messages` of texts with a tag for each image, and `images`; ms-swift reads a turn's `loss`."""
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    turns: list[dict[str, Any]] = [
        {"role": ROLES[turn.speaker], "content": turn.text, **_mark(turn, "loss")} for turn in conversation.turns
    ]
    return {"messages": system + turns, "images": images}


def messages_of_parts(conversation: Conversation, images: list[Any]) -> dict[str, Any]:
    """`messages` whose content is a list of {type, text}, as TRL and chat templates have it, and `images`."""
    turns = [{"role": "system", "content": [_text(conversation.system)]}] if conversation.system else []
    for turn in conversation.turns:
        role, content = ROLES[turn.speaker], _parts(turn.text) if conversation.images else [_text(turn.text)]
        turns.append({"role": role, "content": content})
    return {"messages": turns, "images": images}


def _parts(text: str) -> list[dict[str, str | None]]:
    return [{"text": None, **part} for part in parts_of(text)]


def _text(text: str | None) -> dict[str, str | None]:
    return {"type": "text", "text": text}


def _mark(turn: Turn, key: str) -> dict[str, bool]:
    return {} if turn.predicted else {key: False}


def _system(conversation: Conversation) -> dict[str, str]:
    return {"system": conversation.system} if conversation.system else {}
