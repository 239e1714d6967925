"""The rows of an export: which, with what beside them, and where their images go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icons.data.conversation import Conversation, parse_record
from icons.data.images import ImageSource, StoredImage
from icons.data.records import Records
from icons.data.source import record_source
from icons.data.written import as_trained, tags_fit
from icons.errors import BadRecordError
from icons.progress import Progress

Form = Callable[[Conversation, list[Any]], dict[str, Any]]

ENDINGS = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}


@dataclass
class Noticed:
    """What a person should know of an export."""

    rows: int = 0
    without_fitting_tags: list[str] = field(default_factory=list)
    marked_turns: list[str] = field(default_factory=list)
    """Records with turns that are not to be predicted."""


@dataclass(frozen=True)
class Export:
    """`beside` gives more columns of a row; `one_image` as in `as_trained`."""

    records: Records
    rows: Sequence[int]
    beside: Callable[[int], dict[str, Any]]
    one_image: bool
    noticed: Noticed = field(default_factory=Noticed)

    def written(self, form: Form, images: Callable[[int, int, ImageSource, str], Any]) -> Iterator[dict[str, Any]]:
        """The rows in a form; `images` says what an image is there: of row, position, source and name.

        Raises BadRecordError for a row that cannot be read: none is left out silently.
        """
        with Progress("export", len(self.rows), unit="records") as progress:
            for row in self.rows:
                record = self.records[row]
                where = self.records.where(row, record)
                try:
                    conversation = as_trained(parse_record(record), one_image=self.one_image)
                    self._notice(conversation, where)
                    shown = [
                        images(row, at, self.records.image(row, at, name), name)
                        for at, name in enumerate(conversation.images)
                    ]
                except BadRecordError as error:
                    raise BadRecordError(f"{where}: {error}") from None
                head = {"id": str(record.get("id", "")), "source": record_source(record)}
                yield {**head, **form(conversation, shown), **self.beside(row)}
                self.noticed.rows += 1
                progress.advance(1)

    def _notice(self, conversation: Conversation, where: str) -> None:
        if not tags_fit(conversation):
            self.noticed.without_fitting_tags.append(where)
        if not all(turn.predicted for turn in conversation.turns):
            self.noticed.marked_turns.append(where)


def image_bytes(source: ImageSource) -> bytes:
    """The encoded bytes of an image; BadRecordError when they cannot be read."""
    where = source.content() if isinstance(source, StoredImage) else source
    if isinstance(where, bytes):
        return where
    try:
        return where.read_bytes()
    except OSError as error:
        raise BadRecordError(f"image {where} cannot be read ({error.strerror})") from None


def unpacked(folder: Path, row: int, position: int, content: bytes) -> str:
    """Writes an image into a file of its own under `folder`/images; its path relative to `folder`."""
    ending = ENDINGS.get(content[:2], ".img")
    name = f"images/{row // 1000:05d}/{row}-{position}{ending}"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return name
