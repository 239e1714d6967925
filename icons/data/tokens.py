"""Token ids and labels of a conversation: what a prompt's spans make of them, and the images put in their places.

Pure: no tokenizer, no model. An image is one id, IMAGE_ID, until the number of tokens it takes is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icons.errors import BadRecordError

IMAGE_ID = -200
IGNORE = -100


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
    """The whole conversation as text, and the character spans [start, stop) that are to be predicted, in order.

    `images` counts the placeholders in it: the first so many of the record's images are shown.
    """

    text: str
    spans: list[tuple[int, int]]
    images: int = 0


def labelled(ids: list[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Tokens:
    """The ids with a label wherever a token's characters [start, stop) and a span have one in common.

    A token may carry the space before it, so that it begins before the span that it belongs to. Of a token that the
    tokenizer reports no characters for, those between its neighbours count; where these are none, it is labelled when
    both neighbours lie in one span. IMAGE_ID is never a label.
    """
    labels = [IGNORE] * len(ids)
    coming = iter(spans)
    span = next(coming, None)
    for position, (start, stop) in enumerate(_filled(offsets)):
        while span is not None and start >= span[1]:
            span = next(coming, None)
        inside = span is not None and stop > span[0] and (stop > start or span[0] < start < span[1])
        if inside and ids[position] != IMAGE_ID:
            labels[position] = ids[position]
    return Tokens(ids, labels)


def _filled(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The characters of each token; those without any get what lies between the tokens around them.

    Before the first token that has some there is nothing, and behind the last one neither: what stands there was put
    there by the tokenizer.
    """
    filled = list(offsets)
    before, empty = 0, list[int]()
    seen = False
    for position, (start, stop) in enumerate(offsets):
        if stop <= start:
            empty.append(position)
            continue
        for each in empty:
            filled[each] = (before, max(before, start)) if seen else (0, 0)
        before, empty, seen = max(before, stop), [], True
    for each in empty:
        filled[each] = (before, before)
    return filled


def expand_images(tokens: Tokens, images: Sequence[Sequence[int]], max_length: int) -> tuple[Tokens, list[int]]:
    """Puts each image's ids in the place of its IMAGE_ID and cuts at `max_length` ids.

    Returns the tokens and where each image that is left in them ends. Raises BadRecordError when the cut falls inside
    an image or leaves no answer.
    """
    ids: list[int] = []
    labels: list[int] = []
    ends: list[int] = []
    for token, label in zip(tokens.ids, tokens.labels, strict=True):
        if token != IMAGE_ID:
            ids.append(token)
            labels.append(label)
            continue
        of_image = images[len(ends)]
        if len(ids) < max_length < len(ids) + len(of_image):
            raise BadRecordError(
                f"max_length {max_length} cuts inside the image ({len(of_image)} tokens from position {len(ids)}); "
                "raise model.max_length"
            )
        ids += of_image
        labels += [IGNORE] * len(of_image)
        ends.append(len(ids))
    cut = Tokens(ids[:max_length], labels[:max_length])
    if cut.num_targets == 0:
        cause = f"max_length {max_length} cuts the whole answer off" if tokens.num_targets else "no answer token"
        raise BadRecordError(f"{cause} ({len(ids)} tokens); nothing is left to learn from")
    return cut, [end for end in ends if end <= max_length]


def up_to_last_label(tokens: Tokens) -> Tokens:
    """Without what stands behind the last label: nothing learns from it, as every position sees only those before."""
    used = 1 + max(position for position, label in enumerate(tokens.labels) if label != IGNORE)
    return Tokens(tokens.ids[:used], tokens.labels[:used])
