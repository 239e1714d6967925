"""The page: one HTML file with everything in it, every text of the user's escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def write_page(content: Mapping[str, Any]) -> bytes:
    """`page.html` filled; its style and script stand beside it and are written into the page.

    The page's own policy lets nothing be loaded, and no script run but this one, should an escape ever be missing.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template("page.html").render(**content, style=style, script=script, script_digest=digest)
    return page.encode("utf-8", "replace")
