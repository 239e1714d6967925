"""What every section of the config is made of: numbers that are numbers, paths that can be paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MOST = 2**31 - 1
"""Of any whole number here but a seed: more is a slip of the finger, and does not fit where numbers go."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is no 1, and a number is finite and not of thousands of digits."""
        annotation = str(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and "bool" not in annotation and "Any" not in annotation:
            raise ValueError(f"expected {_expected(annotation)}")
        for number in _numbers_in(value, "Any" in annotation):
            if isinstance(number, float) and not isfinite(number):
                raise ValueError("expected a finite number")
            if isinstance(number, int) and abs(number) >= 2**63:
                raise ValueError("expected a number of at most 18 digits")
        return value


def _expected(annotation: str) -> str:
    return "a number" if "int" in annotation or "float" in annotation else "text"


def _numbers_in(value: Any, free: bool) -> Iterator[int | float]:
    """Also within lists, and where a key takes anything (`free`) within mappings; sections look at their own keys."""
    if isinstance(value, list) or (free and isinstance(value, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers_in(each, free)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def nameable(path: Path) -> Path:
    """What an operating system can take for a path."""
    text = str(path)
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("no path can hold such a character")
    if len(os.fsencode(text)) > 4095 or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise ValueError("no path can be so long")
    return path


FilePath = Annotated[Path, AfterValidator(nameable)]
