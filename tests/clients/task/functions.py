"""How lmms-eval gets the picture of a row of the task."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

ROW = "ICONS_ROW"
"""The environment variable in which the probe finds whose turn it is."""


def image(doc: dict[str, Any]) -> list[Image.Image]:
    os.environ[ROW] = str(doc["row"])
    return [Image.open(doc["image"]).convert("RGB")]
