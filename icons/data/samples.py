"""Rows of a data file as samples: checked, tokenised, their images named but not opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icons.data.conversation import Conversation, parse_record
from icons.data.images import image_path
from icons.data.records import Records
from icons.data.templates import IGNORE, Tokens, encode, expand_image
from icons.errors import BadRecordError


@dataclass(frozen=True)
class InputFormat:
    """What turns a record into the model's inputs; everything here comes with the model folder and the config."""

    tokenizer: Any
    image_processor: Any
    image_token_id: int
    num_image_tokens: int
    pad_token_id: int
    max_length: int


@dataclass(frozen=True)
class Sample:
    """One usable row: ids and labels up to the last label, the image's tokens in place, and where its image lies."""

    row: int
    where: str  # file, row and record id, as messages about it begin
    tokens: Tokens
    image: Path | None
    length: int  # positions the model has to see: all but the last label's own


@dataclass(frozen=True)
class BadRecord:
    row: int
    reason: str  # begins with file, row and record id


@dataclass(frozen=True)
class DataSource:
    """One data file with its image folder and the format to encode it in."""

    records: Records
    images: Path | None
    inputs: InputFormat

    def samples(self, rows: Sequence[int]) -> tuple[list[Sample], list[BadRecord]]:
        """Encodes rows (no image is opened); those that cannot be used come back as BadRecords, in row order."""
        parsed: list[tuple[int, str, Conversation]] = []
        bad: list[BadRecord] = []
        for row in rows:
            record: dict[str, Any] | None = None
            try:
                record = self.records[row]
                parsed.append((row, self.records.where(row, record), parse_record(record)))
            except BadRecordError as error:
                message, path = str(error), str(self.records.path)
                reason = message if message.startswith(path) else f"{self.records.where(row, record)}: {message}"
                bad.append(BadRecord(row, reason))
        samples: list[Sample] = []
        encoded = encode([conversation for _, _, conversation in parsed], self.inputs.tokenizer) if parsed else []
        for (row, where, conversation), tokens in zip(parsed, encoded, strict=True):
            try:
                samples.append(self._sample(row, where, conversation, tokens))
            except BadRecordError as error:
                bad.append(BadRecord(row, f"{where}: {error}"))
        return samples, sorted(bad, key=lambda record: record.row)

    def _sample(self, row: int, where: str, conversation: Conversation, tokens: Tokens) -> Sample:
        inputs = self.inputs
        image = image_path(self.images, conversation.image) if conversation.image else None
        full = expand_image(tokens, inputs.image_token_id, inputs.num_image_tokens, inputs.max_length)
        length = max(position for position, label in enumerate(full.labels) if label != IGNORE)
        used = Tokens(full.ids[: length + 1], full.labels[: length + 1])
        if inputs.image_token_id not in used.ids:
            image = None  # it stands behind the last answer, where nothing learns from it
        return Sample(row, where, used, image, length)
