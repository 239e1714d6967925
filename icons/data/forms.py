"""How records are written elsewhere, brought into LLaVA's form: `conversations: [{from, value}]`, `image`, `system`.

Sources: TRL's conversational format and OpenAI's parts (`messages`), LLaMA-Factory's and ms-swift's `messages` with
`images`, Stanford Alpaca (`instruction`, `input`, `output`), The Cauldron and FineVision (`texts`, `images`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icons.data.conversation import IMAGE_TAG
from icons.errors import BadRecordError
from icons.plain import quoted

_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}
_IMAGE_KEYS = ("image_url", "image", "path", "url")
_UNREAD = ("tool_calls", "reasoning_content", "thinking")
"""Keys of a message that a template would write into the text."""


def form_of(record: Mapping[str, Any]) -> str | None:
    """The form whose keys a record has, None where it has those of none; ValueError where it has those of two."""
    found = _forms(record)
    if len(found) > 1:
        raise ValueError(f"records may be of the form {' or '.join(found)}; say which with format")
    return found[0] if found else None


def unknown_form(record: Mapping[str, Any]) -> str:
    """What to say of a record without any form's keys."""
    known = "; ".join(f"{form}: {words}" for form, words in KEYS.items())
    keys = ", ".join(quoted(key, 40) for key in list(record)[:8])
    return f"records with {keys} are of no form that is read ({known})"


def _forms(record: Mapping[str, Any]) -> list[str]:
    turns = record.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    with_roles = isinstance(first, Mapping) and "role" in first and "from" not in first
    found = ["messages" if with_roles else "llava"] if "conversations" in record else []
    found += ["messages"] if "messages" in record else []
    found += ["cauldron"] if isinstance(record.get("texts"), list) else []
    found += ["alpaca"] if "instruction" in record and "output" in record else []
    return list(dict.fromkeys(found))


def in_llava_form(form: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record itself when it has LLaVA's form already; else a new one, all other keys as they were.

    Raises BadRecordError, without file and row, where the record is not of `form`.
    """
    return FORMS[form](record)


def _llava(record: dict[str, Any]) -> dict[str, Any]:
    return record


def _messages(record: dict[str, Any]) -> dict[str, Any]:
    key = "messages" if "messages" in record else "conversations"
    messages = record.get(key)
    if not isinstance(messages, list) or not messages:
        raise BadRecordError("no messages; expected a list of {role, content}")
    named: list[str | None] = []
    turns = [_turn(number, message, named) for number, message in enumerate(messages)]
    if record.get("tools"):
        raise BadRecordError("tools, which are not read: a template would write them into the text")
    images = _images(record)
    paths = [name for name in named if name is not None]
    if paths and (images or len(paths) < len(named)):
        raise BadRecordError("images both in the messages and beside them; expected them in one place")
    if named and not paths and len(named) != len(images):
        raise BadRecordError(f"{len(named)} image parts for {len(images)} images under image or images")
    return _record(record, {key}, turns, paths or images)


def _turn(number: int, message: Any, named: list[str | None]) -> dict[str, Any]:
    """`named` gets an entry for each image part: the path that it names, None where it holds a place alone."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRecordError(f"message {number} has no role; expected {{'role': ..., 'content': ...}}")
    role, content = message["role"], message.get("content")
    if role not in _SPEAKERS:
        raise BadRecordError(f"unknown role {quoted(role)} in message {number}; expected system, user or assistant")
    for key in _UNREAD:
        if message.get(key):
            raise BadRecordError(f"message {number} has {key}, which is not read")
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _text_of_parts(number, content, named)
    if not isinstance(content, str):
        raise BadRecordError(f"message {number} has no content; expected a text or a list of parts")
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    return {"from": _SPEAKERS[role], "value": content, **rest}


def _text_of_parts(number: int, parts: Sequence[Any], named: list[str | None]) -> str:
    """Text with a tag for each image; one that stands at either end of the text has a line of its own."""
    pieces: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if IMAGE_TAG in part["text"]:
                raise BadRecordError(f"message {number} has {IMAGE_TAG} in a text beside parts; expected an image part")
            pieces.append(part["text"])
        elif kind in ("image", "image_url"):
            named.append(_named_image(number, part))
            pieces.append(IMAGE_TAG)
        else:
            raise BadRecordError(f"part {quoted(part)} of message {number}; expected one of type text or image")
    texts = [at for at, piece in enumerate(pieces) if piece != IMAGE_TAG]
    if not texts or len(texts) == len(pieces):
        return "".join(pieces)
    before, within, behind = pieces[: texts[0]], pieces[texts[0] : texts[-1] + 1], pieces[texts[-1] + 1 :]
    return "\n".join("".join(each) for each in (before, within, behind) if each)


def _named_image(number: int, part: Mapping[str, Any]) -> str | None:
    """Where an image part says that its image lies; None where it only holds the place of one.

    Raises BadRecordError when it brings something else along: that would be an image, and not be seen.
    """
    unread = [key for key, value in part.items() if value is not None and key not in (*_IMAGE_KEYS, "type", "text")]
    if unread:
        raise BadRecordError(
            f"an image part of message {number} has {', '.join(map(quoted, unread))}; read are {', '.join(_IMAGE_KEYS)}"
        )
    for key in _IMAGE_KEYS:
        value = part.get(key)
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                raise BadRecordError(f"image bytes within message {number}; expected them under image or images")
            value = value.get("url") or value.get("path")
        if isinstance(value, str) and value:
            return value.removeprefix("file://")
        if value is not None:
            raise BadRecordError(f"{key} is {quoted(value)}; expected a path or a data URI")
    return None


def _alpaca(record: dict[str, Any]) -> dict[str, Any]:
    texts: dict[str, str] = {}
    for key in ("instruction", "input", "output"):
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            raise BadRecordError(f"{key} is {quoted(value)}; expected a text")
        texts[key] = value or ""
    if not texts["instruction"] and not texts["input"]:
        raise BadRecordError("no instruction and no input; there is nothing to answer")
    turns: list[dict[str, Any]] = []
    history = record.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadRecordError(f"history holds {quoted(pair)}; expected pairs of texts")
        turns += [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]
    question = "\n".join(text for text in (texts["instruction"], texts["input"]) if text)
    turns += [{"from": "human", "value": question}, {"from": "gpt", "value": texts["output"]}]
    return _record(record, {"instruction", "input", "output", "history"}, turns, _images(record))


def _cauldron(record: dict[str, Any]) -> dict[str, Any]:
    texts = record.get("texts")
    if not isinstance(texts, list) or not texts:
        raise BadRecordError("no texts; expected a list of {user, assistant}")
    turns: list[dict[str, Any]] = []
    for number, pair in enumerate(texts):
        spoken = [pair.get(key) if isinstance(pair, Mapping) else None for key in ("user", "assistant")]
        if not all(isinstance(text, str) for text in spoken):
            raise BadRecordError(f"text {number} is {quoted(pair)}; expected {{'user': ..., 'assistant': ...}}")
        turns += [{"from": "human", "value": spoken[0]}, {"from": "gpt", "value": spoken[1]}]
    source = texts[0].get("source")
    named = {"source": source} if isinstance(source, str) and source and not record.get("source") else {}
    return _record(record | named, {"texts"}, turns, _images(record))


def _record(
    record: Mapping[str, Any], used: set[str], turns: list[dict[str, Any]], images: list[str]
) -> dict[str, Any]:
    """Images that no turn speaks of stand before the first question, as TRL and ms-swift put them."""
    if images and not any(IMAGE_TAG in turn["value"] for turn in turns):
        first = next((turn for turn in turns if turn["from"] == "human"), None)
        if first is not None:
            first["value"] = IMAGE_TAG * len(images) + "\n" + first["value"]
    kept = {key: value for key, value in record.items() if key not in used | {"image", "images"}}
    shown = {"image": images[0] if len(images) == 1 else images} if images else {}
    return {**kept, **shown, "conversations": turns}


def _images(record: Mapping[str, Any]) -> list[str]:
    """The paths under `image` or `images`, each a text or an object with a path."""
    if record.get("image") is not None and record.get("images"):
        raise BadRecordError("both image and images; expected one of them")
    images = record.get("image") if record.get("image") is not None else record.get("images")
    paths = []
    for image in images if isinstance(images, list) else [] if images is None else [images]:
        path = image.get("path") or image.get("url") if isinstance(image, Mapping) else image
        if not isinstance(path, str) or not path:
            raise BadRecordError(f"image is {quoted(image)}; expected a path, or an object with one")
        paths.append(path)
    return paths


FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "llava": _llava,
    "messages": _messages,
    "alpaca": _alpaca,
    "cauldron": _cauldron,
}
"""What `format` may say -> how such a record is read."""

KEYS = {
    "llava": "conversations with from and value",
    "messages": "messages with role and content",
    "alpaca": "instruction, input and output",
    "cauldron": "texts with user and assistant",
}
"""What a person knows each form by."""
