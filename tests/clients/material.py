"""What docs/reproduce.md leaves for other programs, small, made by icons' own commands under the page's names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from icons.demo.drawing import draw_vqa_set
from tests.clients.page import preparations
from tests.conftest import icons

RUN = Path("runs/llava-665k")
SELECTION = RUN / "selection" / "vote-20"
MODEL = Path("work/llava-1.5-before-tuning")
MERGED = RUN / "finetune" / "vote-20" / "merged"
IMAGES = Path("work/data/images")
ROWS, PERCENT = 60, 50
SHAPES = ((96, 96), (96, 64), (60, 96), (1024, 768))
"""Width and height of the pictures, in turn: padding and cropping differ on those that are no square, and the last is
larger than LLaMA-Factory leaves one."""


def make(root: Path, parts: Path) -> None:
    """Fills the folder `root`: data, assembled model, selection, what the page makes of it, and a merged model.

    questions.json is for the task of lmms-eval: the first question of every selected record with an image.

    `parts` are the published parts in small: vicuna/, clip/ and mm_projector.bin.
    """
    drawn = draw_vqa_set(root / "work" / "data", train_records=ROWS, val_records=2)
    for number, path in enumerate(sorted(drawn.images.rglob("*.png"))):
        with Image.open(path) as picture:
            shaped = picture.convert("RGB").resize(SHAPES[number % len(SHAPES)], Image.Resampling.NEAREST)
        shaped.save(path)
    records = json.loads(drawn.train.read_text())
    for number, record in enumerate(records[::2]):
        record["id"] = number  # LLaVA-665K has whole numbers among its ids
    drawn.train.write_text(json.dumps(records))
    config = root / "work" / "config.yaml"
    config.write_text(yaml.safe_dump(_config(sorted(drawn.tasks)[:2])))
    assembled = {"llm": parts / "vicuna", "vision": parts / "clip", "projector": parts / "mm_projector.bin"}
    _run("assemble", *(word for name, path in assembled.items() for word in (f"--{name}", path)), root / MODEL)
    _run("run", config)
    _run("finetune", config, "--merge")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = ["bash", "-c", preparations()]
    subprocess.run(script, cwd=root, env=os.environ | {"PATH": path}, check=True, stdout=subprocess.DEVNULL)
    questions = [
        {
            "row": row,
            "image": str(IMAGES / record["image"]),
            "question": record["conversations"][0]["value"].replace("<image>\n", ""),
            "answer": record["conversations"][1]["value"],
        }
        for row, record in enumerate(with_images(root))
    ]
    (root / "questions.json").write_text(json.dumps(questions))


def with_images(root: Path) -> list[dict[str, Any]]:
    """The selection's records that show an image, in order."""
    records = json.loads((root / SELECTION / "selected_data.json").read_text())
    return [record for record in records if "image" in record]


def _config(tasks: list[str]) -> dict[str, Any]:
    training = {"max_steps": 1, "batch_size": 2, "save_steps": 1}
    return {
        "output_dir": f"../{RUN}",
        "model": {"base": f"../{MODEL}", "dtype": "float32", "device": "cpu", "lora": {"r": 2, "alpha": 4}},
        "train": {"data": "data/train.json", "images": "data/images"},
        "warmup": {"fraction": 0.2, **training},
        "finetune": training,
        "tasks": [{"name": task, "data": f"data/tasks/{task}.json", "images": "data/images"} for task in tasks],
        "gradients": {"dim": 64},
        "selection": {"name": SELECTION.name, "percent": PERCENT},
    }


def _run(*arguments: object) -> None:
    outcome = icons(*arguments)
    assert outcome.code == 0, outcome.err
