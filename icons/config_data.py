"""The keys that say where records lie: a file, a folder, a dataset's id, or several of them as one set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from icons.config_section import FilePath, Section
from icons.data.forms import FORMS
from icons.data.records import Part


def _known_format(value: str) -> str:
    if value not in FORMS:
        raise ValueError(f"expected one of {', '.join(FORMS)}")
    return value


FormatName = Annotated[str, AfterValidator(_known_format)]


class PartConfig(Section):
    """One of several files of a set; what is null is as in the section around it."""

    data: FilePath
    images: FilePath | None = None
    format: FormatName | None = None
    split: str | None = None
    source: str | None = Field(None, min_length=1, max_length=200)  # what its records come from, if they don't say so


class DataSection(Section):
    """Where records lie: a file, a folder, or several as one set."""

    data: Annotated[
        Annotated[FilePath, Tag("one")] | Annotated[list[PartConfig], Tag("several"), Field(min_length=1)],
        Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
    ]
    images: FilePath | None = None
    format: FormatName | None = None  # null = seen by the content
    split: str | None = None  # of a dataset that has several

    @field_validator("data", mode="before")
    @classmethod
    def _a_path_is_a_part(cls, value: Any) -> Any:
        return (
            [each if isinstance(each, dict) else {"data": each} for each in value] if isinstance(value, list) else value
        )

    @model_validator(mode="after")
    def _split_is_of_one(self) -> DataSection:
        if self.split is not None and not isinstance(self.data, Path):
            raise ValueError("split: of several files each says its own, {data: ..., split: ...}")
        return self

    @property
    def parts(self) -> tuple[Part, ...]:
        if isinstance(self.data, Path):
            return (Part(self.data, self.images, self.format, self.split),)
        return tuple(
            Part(each.data, each.images or self.images, each.format or self.format, each.split, each.source)
            for each in self.data
        )

    @property
    def title(self) -> str:
        """What messages call the data."""
        first, more = self.parts[0].path, len(self.parts) - 1
        return f"{first} and {more} more" if more else str(first)
