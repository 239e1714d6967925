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

    `images` counts the placeholders in it.
    """

    text: str
    spans: list[tuple[int, int]]
    images: int = 0


def labelled(ids: list[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Tokens:
    """The ids with a label wherever a token's characters [start, stop) and a span have one in common.

    A token may carry the space before it, so that it begins before the span that it belongs to. An id of no characters
    or IMAGE_ID is never a label.
    """
    labels = [IGNORE] * len(ids)
    coming = iter(spans)
    span = next(coming, None)
    for position, (start, stop) in enumerate(offsets):
        while span is not None and start >= span[1]:
            span = next(coming, None)
        if span is not None and stop > span[0] and stop > start and ids[position] != IMAGE_ID:
            labels[position] = ids[position]
    return Tokens(ids, labels)


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
