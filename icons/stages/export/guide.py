"""What stands beside exported data: LLaMA-Factory's dataset_info.json, and a README with each program's command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icons.config import Config
from icons.store.selection import StoredSelection

_ROLES = {
    "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
    "system_tag": "system",
}  # fmt: skip
LLAMA_FACTORY: dict[str, dict[str, Any]] = {
    "llava": {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "image"}},
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "images", "system": "system"},
    },
    "messages": {
        "formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"}, "tags": _ROLES,
    },
}  # fmt: skip


def write_guide(
    folder: Path,
    out: Path,
    file: str,
    form: str | None,
    config: Config,
    selection: StoredSelection,
    count: int,
    *,
    whole: bool,
) -> None:
    """Into `folder`, which will be `out`; `file` is the data's name in it, `form` None where it kept its own."""
    name, images = f"icons-{selection.name}", config.train.parts[0].images
    what = f"all {count} usable records, `weight` 1 for those selected" if whole else f"{count} selected records"
    lines = [
        f"# {selection.name}",
        "",
        f"{what[0].upper()}{what[1:]}, written by icons: method {selection.method}, {selection.head['percent']:g}% of "
        f"{selection.head['num_train']}, fingerprint {selection.head['fingerprint']}.",
        "",
        f"Data: `{file}`, form `{form or 'as the input has it'}`.",
        "",
    ]
    if form in LLAMA_FACTORY:
        entry = {name: {"file_name": file, **LLAMA_FACTORY[form]}}
        (folder / "dataset_info.json").write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
        media = f" --media_dir {images}" if images else ""
        root = f"ROOT_IMAGE_DIR={images} " if images else ""
        lines += [
            "LLaMA-Factory:",
            "",
            f"    llamafactory-cli train --dataset {name} --dataset_dir {out}{media} ...",
            "",
            "ms-swift:",
            "",
            f"    {root}swift sft --dataset {out / file} ...",
            "",
        ]
    lines += ["Hugging Face datasets (TRL reads the columns `messages` and `images`):" if form in ("parquet", "hf")
              else "Hugging Face datasets:", "", *_snippet(out, file), ""]  # fmt: skip
    if whole:
        lines += [
            "The selection is a column: keep `weight == 1`, or sample by `votes`, `value` (what the method ranked by)",
            "or `scores` (influence on each task).",
            "",
        ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _snippet(out: Path, file: str) -> list[str]:
    if file == "dataset":
        return [
            "    from datasets import load_from_disk",
            f'    data = load_from_disk("{out / file}")',
        ]
    kind = "parquet" if file.endswith(".parquet") else "json"
    return [
        "    from datasets import load_dataset",
        f'    data = load_dataset("{kind}", data_files="{out / file}", split="train")',
    ]
