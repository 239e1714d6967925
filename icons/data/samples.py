"""Rows of a data file as samples: checked, tokenised, their images named but not decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icons.data.conversation import parse_record
from icons.data.formats import InputFormat
from icons.data.images import ImageSource
from icons.data.records import Records
from icons.data.tokens import Prompt, Tokens, expand_images, up_to_last_label
from icons.errors import BadRecordError


@dataclass(frozen=True)
class Sample:
    """One usable row: ids and labels up to the last label, the images' tokens in place, and where its images lie."""

    row: int
    where: str  # file, row and record id, as messages about it begin
    tokens: Tokens
    images: tuple[ImageSource, ...]
    length: int  # positions the model has to see: all but the last label's own


@dataclass(frozen=True)
class BadRecord:
    row: int
    reason: str  # begins with file, row and record id


@dataclass(frozen=True)
class DataSource:
    """Records and the format to encode them in."""

    records: Records
    inputs: InputFormat

    def samples(self, rows: Sequence[int]) -> tuple[list[Sample], list[BadRecord]]:
        """Encodes rows (no image is decoded); those that cannot be used come back as BadRecords, in row order."""
        rendered: list[tuple[int, str, tuple[ImageSource, ...], Prompt]] = []
        bad: list[BadRecord] = []
        for row in rows:
            try:
                record = self.records[row]
            except BadRecordError as error:
                bad.append(BadRecord(row, str(error)))
                continue
            where = self.records.where(row, record)
            try:
                conversation = parse_record(record)
                prompt = self.inputs.render(conversation)
                shown = enumerate(conversation.images[: prompt.images])
                images = tuple(self.records.image(row, position, name) for position, name in shown)
                rendered.append((row, where, images, prompt))
            except BadRecordError as error:
                bad.append(BadRecord(row, f"{where}: {error}"))
        samples: list[Sample] = []
        encoded = self.inputs.tokenise([prompt for *_, prompt in rendered]) if rendered else []
        for (row, where, images, _), tokens in zip(rendered, encoded, strict=True):
            try:
                ids = [self.inputs.image_ids(image) for image in images]
                whole, ends = expand_images(tokens, ids, self.inputs.max_length)
                used = up_to_last_label(whole)
                left = sum(end <= len(used.ids) for end in ends)
                samples.append(Sample(row, where, used, images[:left], len(used.ids) - 1))
            except BadRecordError as error:
                bad.append(BadRecord(row, f"{where}: {error}"))
        return samples, sorted(bad, key=lambda record: record.row)
