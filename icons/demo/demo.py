"""`icons demo`: a small multi-task VQA set, a tiny LLaVA that has seen a little, the whole pipeline, two selections."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from icons.config_file import load_config
from icons.demo.drawing import WRONG, VqaSet, draw_vqa_set
from icons.demo.start import STEPS, train_start
from icons.errors import UserError
from icons.pipeline import run
from icons.progress import say
from icons.stages.generalist.generalist import generalist
from icons.stages.report.report import report
from icons.store.files import read_tensors
from icons.store.layout import INDICES, VOTES, RunFolder
from icons.store.scores import read_scores

TRAIN_RECORDS, VAL_RECORDS, TEST_RECORDS = 1200, 24, 60
OTHER = "proportional"  # the selection that is made beside the vote's
MARKER = ".icons-demo"  # a folder without it is somebody else's


def demo(folder: Path) -> None:
    """Writes data/, model/, config.yaml and run/ under `folder`; run again, it continues or says what it found.

    Raises UserError when `folder` holds something that is not a demo.
    """
    begin = time.monotonic()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UserError(f"{folder} holds files that are not the demo's; choose an empty folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    say(f"Drawing {TRAIN_RECORDS} training records and {VAL_RECORDS} of each target task ...")
    drawn = draw_vqa_set(
        folder / "data", train_records=TRAIN_RECORDS, val_records=VAL_RECORDS, test_records=TEST_RECORDS
    )
    if not (folder / "model" / "config.json").is_file():
        say(f"Training a tiny LLaVA for {STEPS} steps, so that its gradients mean something ...")
        train_start(folder)
    config_path = folder / "config.yaml"
    config_path.write_text(yaml.safe_dump(_config(drawn, folder), sort_keys=False), encoding="utf-8")
    config = load_config(config_path)
    other = load_config(config_path, [f"selection.method={OTHER}"])
    run(config)
    generalist(other)
    report(config, path=config_path.resolve())
    say("")
    for each in (config, other):
        _print_table(RunFolder(each.output_dir), each.selection.name, drawn)
    say(f"\nDone in {time.monotonic() - begin:.0f} s. The config is {config_path}, everything else lies beside it.")
    say(f"To look at: {RunFolder(config.output_dir).report / 'index.html'}")
    say(f"Which of them to trust, by short trainings (a minute): icons trial {config_path} --percent 20")


def _config(drawn: VqaSet, folder: Path) -> dict[str, object]:
    def relative(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    images = relative(drawn.images)
    tasks = [
        {"name": name, "group": drawn.groups.get(name), "data": relative(path), "images": images}
        for name, path in drawn.tasks.items()
    ]
    return {
        "output_dir": "run",
        "model": {"base": "./model", "dtype": "float32", "device": "cpu", "lora": {"r": 16, "alpha": 32}},
        "train": {"data": relative(drawn.train), "images": images, "num_chunks": 4},
        "warmup": {"fraction": 0.2, "epochs": 2, "max_steps": 30, "batch_size": 16, "learning_rate": 1.0e-3},
        "tasks": tasks,
        "gradients": {"dim": 5120, "shard_rows": 128},
        "selection": {"percent": 20, "stability": True},
        "finetune": {"epochs": 3, "learning_rate": 1.0e-3, "projector_learning_rate": 1.0e-3},
        "evaluation": {
            "tasks": [{"name": name, "data": relative(path), "images": images} for name, path in drawn.tests.items()]
        },
    }


def _print_table(folder: RunFolder, name: str, drawn: VqaSet) -> None:
    scores = read_scores(folder.scores)
    selection = json.loads((folder.selection(name) / INDICES).read_text(encoding="utf-8"))
    indices = np.array(selection["indices"])
    votes = read_tensors(folder.selection(name) / VOTES)["votes"]
    say(f"\n{name}, by {selection['method']}")
    say(f"{'task':<12} {'lowest':>8} {'highest':>8} {'threshold':>10}   voted for")
    for column, task in enumerate(scores.columns):
        column_N, tau = scores.scores[:, column], selection["thresholds"][task]
        voted = int((column_N[indices].astype(np.float64) >= tau).sum())
        spread = f"{column_N.min():>8.3f} {column_N.max():>8.3f} {tau:>10.3f}"
        say(f"{task:<12} {spread}   {voted} of the {len(indices)} selected")
    records = json.loads(drawn.train.read_text(encoding="utf-8"))
    sources = [drawn.sources[record["id"]] for record in records]
    total, picked = Counter(sources), Counter(sources[index] for index in indices)
    say(f"votes of the selected: {int(votes[indices].min())} to {int(votes[indices].max())} of {len(scores.columns)}")
    say("selected by source: " + ", ".join(f"{source} {picked[source]}/{total[source]}" for source in sorted(total)))
    share = total[WRONG] / len(records) * len(indices)
    say(f"wrong answers: {picked[WRONG]} of the {len(indices)} selected; their share would be {share:.0f}")
    say(f"indices and records: {folder.selection(name)}")
