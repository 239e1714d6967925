"""What a program read of a selection, row by row, beside what icons has for the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from icons.config import ModelConfig
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.models.formats import input_format

IGNORE = -100
IMAGE = "<image>"


@dataclass(frozen=True)
class Row:
    """Ids with the image's tokens in place, labels of the same length, pixels [3, H, W] where an image is shown."""

    ids: list[int]
    labels: list[int]
    pixels: Any

    @property
    def predicted(self) -> list[int]:
        return [label for label in self.labels if label != IGNORE]


def of_icons(data: Path, images: Path, model: Path) -> list[Row]:
    inputs = input_format(model, ModelConfig(base=str(model), template="vicuna_v1"))
    source = DataSource(open_records(data, images), inputs)
    samples, bad = source.samples(range(len(source.records)))
    assert not bad, bad
    return [
        Row(
            sample.tokens.ids,
            sample.tokens.labels,
            inputs.image_inputs(sample.images[0])["pixel_values"][0].numpy() if sample.images else None,
        )
        for sample in samples
    ]


def of_program(written: Path) -> list[Row]:
    """The rows of a probe's file."""
    arrays = np.load(written)
    count = sum(name.startswith("ids-") for name in arrays)
    return [
        Row(
            arrays[f"ids-{row}"].tolist(),
            arrays[f"labels-{row}"].tolist(),
            arrays.get(f"pixels-{row}"),
        )
        for row in range(count)
    ]


@dataclass(frozen=True)
class Comparison:
    """Counts of rows. `images`: the row shows the picture of its record, or none where that has none. `predicted`: the
    labels are the same tokens in the same order, wherever they stand. `pixels`: the largest difference of a pixel, in
    units of the normalised input (a step of 8 bits is about 0.015), and the largest mean difference of a picture.
    `differences`: (what stands before, icons' tokens, the program's) and how often."""

    rows: int
    rows_of_icons: int
    images: int
    ids: int
    labels: int
    predicted: int
    pixels_most: float
    pixels_mean: float
    differences: dict[tuple[str, str, str], int]


def compare(theirs: Sequence[Row], ours: Sequence[Row], model: Path) -> Comparison:
    """Row by row, in order; what one side has more of is equal to nothing."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    pairs = list(zip(theirs, ours, strict=False))
    found: Counter[tuple[str, str, str]] = Counter()
    gaps = []
    for their, our in pairs:
        found.update(differences(tokenizer, our.ids, their.ids))
        if our.pixels is not None and their.pixels is not None and our.pixels.shape == their.pixels.shape:
            gaps.append(np.abs(their.pixels - our.pixels))
    return Comparison(
        rows=len(theirs),
        rows_of_icons=len(ours),
        images=sum(same_image(their, our, ours) for their, our in pairs),
        ids=sum(their.ids == our.ids for their, our in pairs),
        labels=sum(their.ids == our.ids and their.labels == our.labels for their, our in pairs),
        predicted=sum(their.predicted == our.predicted for their, our in pairs),
        pixels_most=max((float(gap.max()) for gap in gaps), default=float("nan")),
        pixels_mean=max((float(gap.mean()) for gap in gaps), default=float("nan")),
        differences=dict(found.most_common()),
    )


def same_image(their: Row, our: Row, all_ours: Sequence[Row]) -> bool:
    """Whether of all pictures the row's own is the nearest, or both show none."""
    if their.pixels is None or our.pixels is None:
        return their.pixels is our.pixels
    own = _distance(their.pixels, our.pixels)
    return all(
        _distance(their.pixels, other.pixels) > own
        for other in all_ours
        if other.pixels is not None and not np.array_equal(other.pixels, our.pixels)
    )


def _distance(one: Any, other: Any) -> float:
    return float(np.abs(one - other).mean())


def differences(tokenizer: Any, ours: list[int], theirs: list[int]) -> list[tuple[str, str, str]]:
    """Where two lists of ids differ: the token before, icons' tokens there, the program's; an image as one token."""
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    one, other = _one_image_token(ours, image), _one_image_token(theirs, image)

    def words(ids: list[int]) -> str:
        return " ".join(tokenizer.convert_ids_to_tokens(ids))

    return [
        (words(one[start - 1 : start]) if start else "", words(one[start:stop]), words(other[begin:end]))
        for kind, start, stop, begin, end in SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
        if kind != "equal"
    ]


def _one_image_token(ids: list[int], image: int) -> list[int]:
    return [token for at, token in enumerate(ids) if token != image or at == 0 or ids[at - 1] != image]
