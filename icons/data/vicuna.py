"""LLaVA's `v1` template (Vicuna): the text it writes and the ids that LLaVA's own code makes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from icons.data.conversation import IMAGE_TAG, Conversation, Turn
from icons.data.tokens import IMAGE_ID, Prompt, Tokens, labelled
from icons.errors import BadRecordError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] %}"
    "{{ first if first is string else first[0]['text'] }}{% else %}" + SYSTEM + "{% endif %}{{ ' ' }}"
    "{% for message in messages %}{% set turn = namespace(text='', images='') %}"
    "{% if message['content'] is string %}{% set turn.text = message['content'] %}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{% set turn.images = turn.images + '<image>\\n' %}"
    "{% elif part['type'] == 'text' %}{% set turn.text = turn.text + part['text'] %}{% endif %}{% endfor %}{% endif %}"
    "{% if turn.images %}{% set turn.text = (turn.images + turn.text | trim) | trim %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' + turn.text + ' ' if turn.text else 'USER:' }}"
    "{% elif message['role'] == 'assistant' %}"
    "ASSISTANT:{% if turn.text %}{% generation %}{{ ' ' + turn.text + eos_token }}{% endgeneration %}{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The same as a chat template of Hugging Face, for programs that read one from a model's folder.

It writes the beginning-of-sequence token itself, so that it stands there whether or not a program adds one. A system
message takes the place of LLaVA's sentence. `generation` marks what is predicted, for trainers that ask the template.
"""


def render_vicuna(conversation: Conversation, eos: str = "</s>") -> Prompt:
    """`SYSTEM USER: ... ASSISTANT: ...</s>USER: ...`; a span runs from behind `ASSISTANT:` through `</s>`.

    `<image>` moves to the front of its turn. An empty turn is its role alone, without `</s>`, and nothing of it is
    predicted. What LLaVA's own code takes is taken in its way: an `<image>` in a record without an image is text,
    several in one turn are one, and an image that no turn speaks of is not shown. Raises BadRecordError for more than
    one image, for `<image>` in several turns or in an answer, and for a system text of the record's own.
    """
    if conversation.system is not None:
        raise BadRecordError(
            "a system text of its own; template vicuna_v1 always writes LLaVA's, template chat_template takes it"
        )
    if len(conversation.images) > 1:
        raise BadRecordError(
            f"{len(conversation.images)} images; template vicuna_v1 takes one a record, template chat_template several"
        )
    shown = _shown(conversation)
    text, spans = SYSTEM + " ", []
    for turn in conversation.turns:
        if not turn.text:
            text += {"human": "USER:", "gpt": "ASSISTANT:"}[turn.speaker]  # as LLaVA's own code: nothing follows
        elif turn.speaker == "human":
            text += f"USER: {_image_first(turn) if shown else turn.text} "
        else:
            start = len(text) + len("ASSISTANT:")
            text += f"ASSISTANT: {turn.text}{eos}"
            if turn.predicted:
                spans.append((start, len(text)))
    if shown and text.count(IMAGE_TAG) != 1:
        raise BadRecordError(f"taking {IMAGE_TAG} out of its turn leaves another one; mend the text around it")
    return Prompt(text, spans, int(shown))


def _shown(conversation: Conversation) -> bool:
    """Whether the record's image is shown: it has one, and a human turn speaks of it."""
    if not conversation.images:
        return False
    speaking = [turn for turn in conversation.turns if IMAGE_TAG in turn.text]
    if any(turn.speaker == "gpt" for turn in speaking):
        raise BadRecordError(f"{IMAGE_TAG} stands in a gpt turn; expected it in a human turn")
    if len(speaking) > 1:
        raise BadRecordError(f"{IMAGE_TAG} in {len(speaking)} turns for one image; expected it in one")
    return bool(speaking)


def tokenise_vicuna(prompts: Sequence[Prompt], tokenizer: Any) -> list[Tokens]:
    """Ids and labels for each prompt; one call of the (fast) tokenizer for all of them.

    The text is tokenised piece by piece around `<image>` and the pieces joined, what the tokenizer puts before a text
    of its own standing before the first piece alone, as in LLaVA's `tokenizer_image_token`. What it would put behind
    (EOS, with some settings) is left out: the template writes its own.
    """
    split = [prompt.text.split(IMAGE_TAG) if prompt.images else [prompt.text] for prompt in prompts]
    pieces = [piece for texts in split for piece in texts]
    lead = lead_of(tokenizer)
    encoded = tokenizer(
        pieces, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    for number, piece in enumerate(pieces):
        if IMAGE_TAG in piece:  # of a record without an image: characters, and no token for an image
            spelled = _without_image_token(tokenizer).encode(piece, add_special_tokens=False)
            encoded["input_ids"][number], encoded["offset_mapping"][number] = spelled.ids, spelled.offsets
    tokens, at = [], 0
    for prompt, texts in zip(prompts, split, strict=True):
        upto = at + len(texts)
        ids, offsets = encoded["input_ids"][at:upto], encoded["offset_mapping"][at:upto]
        tokens.append(labelled(*_joined(texts, ids, offsets, lead), prompt.spans))
        at = upto
    return tokens


@lru_cache(maxsize=4)
def _without_image_token(tokenizer: Any) -> Tokenizer:
    """The tokenizer as LLaVA's own code has it, to which no IMAGE_TAG was added."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != IMAGE_TAG]
    spelling = Tokenizer.from_str(json.dumps(content))
    spelling.no_truncation()
    spelling.no_padding()
    return spelling


def lead_of(tokenizer: Any) -> list[int]:
    """The ids that a tokenizer puts before every text: the beginning-of-sequence token, or none."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for at in range(len(whole) - len(plain) + 1):
        if whole[at : at + len(plain)] == plain:
            return [int(token) for token in whole[:at]]
    return []


def _image_first(turn: Turn) -> str:
    if IMAGE_TAG not in turn.text:
        return turn.text
    return f"{IMAGE_TAG}\n{turn.text.replace(IMAGE_TAG, '').strip()}".strip()


def _joined(
    texts: list[str], ids: list[list[int]], offsets: list[list[tuple[int, int]]], lead: list[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    joined: list[int] = [*lead]
    places: list[tuple[int, int]] = [(0, 0)] * len(lead)
    base = 0
    for index, text in enumerate(texts):
        if index > 0:
            joined.append(IMAGE_ID)
            places.append((base, base + len(IMAGE_TAG)))
            base += len(IMAGE_TAG)
        joined += ids[index]
        places += [(base + start, base + stop) for start, stop in offsets[index]]
        base += len(text)
    return joined, places
