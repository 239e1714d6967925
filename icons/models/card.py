"""What a model folder that icons writes says of itself, for people and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icons import __version__
from icons.data.vicuna import CHAT_TEMPLATE

CARD = "README.md"


def complete(folder: Path, processor: Any, *, how: str, text: str) -> None:
    """Saves a LLaVA's processor and tokenizer with Vicuna's chat template, and a model card.

    `how` is the command in words, without a path of this machine; `text` what should be known beside it.
    """
    processor.chat_template = processor.tokenizer.chat_template = CHAT_TEMPLATE
    processor.save_pretrained(folder)
    write_card(folder, how=how, text=text)


def write_card(folder: Path, *, how: str, text: str) -> None:
    """README.md with the front matter that Hugging Face's pages read."""
    content = f"""---
library_name: transformers
pipeline_tag: image-text-to-text
---

{text}

Made by icons {__version__}: {how}.

The chat template is LLaVA-1.5's own (`v1`, Vicuna), so that ids are those of `model.template: vicuna_v1`: an image
stands at the front of its turn, an answer ends with the end-of-sequence token.
"""
    (folder / CARD).write_text(content, encoding="utf-8")
