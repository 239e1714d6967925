"""How good the influence itself is, by three measures, for several ways of making it.

    python benchmarks/quality.py --folder DIR [--halves 60] [--workers 2] [--json FILE]

The demo's model and data, 600 training records and 20 validation records of each task. A LoRA is trained on all of
them; there gradients are taken, exact or sketched, plain, by sign or preconditioned by Adam. Then

- linear datamodeling score (Park et al. 2023, arXiv 2303.14186): the LoRA is trained again on random halves of the
  records. A half's predicted loss on a validation record is minus the sum of its rows' influence; the score is the
  Spearman correlation of predicted and actual losses over the halves, of each validation record; mean and 95% bootstrap
  interval over the records.
- wrong answers: the area under the ROC curve of finding the records with a wrong answer.
- same task: the part of a validation record's ten nearest training records that are of its own task.

`ridge` is (G'G + lambda I)^-1 between the sketched rows (lambda a tenth of the mean diagonal of G'G), `leverage`
g (G'G + lambda I)^-1 g' of a row with itself. Pieces that are finished lie in the folder and are not done again.
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
import yaml
from outcomes import exact_gradients, unit_rows
from setting import circumstances, describe

from icons.config import Config, TaskConfig, TrainConfig
from icons.config_file import load_config
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.demo.drawing import WRONG, draw_vqa_set
from icons.demo.start import train_start
from icons.models.adapters import attach_adapter
from icons.models.loading import load_base
from icons.parent import end_with_the_parent
from icons.selection.consensus import cast_votes, thresholds
from icons.stages.specialist.directions import complete_task
from icons.stages.specialist.merge import merge
from icons.stages.specialist.train_grads import train_grads
from icons.stages.specialist.val_grads import val_grads
from icons.stages.training.evaluate import Candidate, answer
from icons.stages.training.finetune import Part, finetune
from icons.stages.training.warmup import warmup
from icons.store.index import read_index, recompute
from icons.store.layout import RunFolder

Float64 = npt.NDArray[np.float64]
TYPES = ("sgd", "sign", "adam")


def config_of(folder: Path, kind: str) -> Config:
    """One run folder for each gradient type, all with the adapter of the first."""
    names = sorted(path.stem for path in (folder / "data" / "tasks").glob("*.json"))
    tasks = [{"name": name, "data": f"data/tasks/{name}.json", "images": "data/images"} for name in names]
    rates = {"learning_rate": 1.0e-3, "projector_learning_rate": None, "batch_size": 16, "epochs": 2}
    raw = {
        "output_dir": f"run-{kind}",
        "model": {"base": "./model", "dtype": "float32", "device": "cpu", "lora": {"r": 8, "alpha": 16, "dropout": 0}},
        "train": {"data": "data/train.json", "images": "data/images"},
        "warmup": {"fraction": 1.0, **rates},
        "finetune": rates,
        "tasks": tasks,
        "gradients": {"type": kind},
    }
    if kind != "sgd":
        raw["model"]["adapter"] = "run-sgd/warmup/final"  # type: ignore[index]
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return load_config(path)


def prepare(folder: Path, records: int) -> None:
    if not (folder / "model").is_dir():
        train_start(folder)
    if not (folder / "data" / "train.json").is_file():
        draw_vqa_set(folder / "data", train_records=records, val_records=20, seed=2)
    for kind in TYPES:
        config = config_of(folder, kind)
        for stage in (warmup, val_grads, train_grads, merge):
            stage(config)


def retrain(folder: Path, number: int) -> None:
    """The LoRA trained on half number `number`, and what it answers: run-sgd/finetune/half-<number>."""
    torch.set_num_threads(1)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        config = config_of(folder, "sgd")
        rows = half(len(open_records(config.train.parts)), number)
        name = f"half-{number}"
        settings = config.finetune.model_copy(update={"seed": number})
        finetune(config.model_copy(update={"finetune": settings}), Part(name, {"half": number}, lambda n: rows), name)
        run = RunFolder(config.output_dir)
        for path in run.finetune(name).glob("checkpoint-*"):
            shutil.rmtree(path)
        answer(config, [Candidate(name, run.finetune(name) / "final", run.evaluation(name))], list(config.tasks))


def half(records: int, number: int) -> list[int]:
    return sorted(np.random.Generator(np.random.PCG64(number)).permutation(records)[: records // 2].tolist())


def losses(folder: Path, halves: int) -> Float64:
    """[halves, M]."""
    config = config_of(folder, "sgd")
    run, rows = RunFolder(config.output_dir), []
    for number in range(halves):
        name = f"half-{number}"
        candidate = Candidate(name, run.finetune(name) / "final", run.evaluation(name))
        answers = answer(config, [candidate], list(config.tasks))[name]
        rows.append(np.concatenate([answers[task.name].answers.losses for task in config.tasks]))
    return np.stack(rows)


def stored(config: Config) -> tuple[Float64, Float64, Float64, Float64]:
    """Unit rows of training [N, d] and validation [M, d], losses and norms [N]."""
    run = RunFolder(config.output_dir)
    index = read_index(run.index("final"))
    shards = [shard.read(index.folder, recompute(shard)) for shard in index.shards]
    train, norms, own = (np.concatenate([s[key] for s in shards]).astype(float) for key in ("grads", "norms", "losses"))
    val = [
        shard.read(run.task("final", task.name), "run it again", ["grads"])["grads"]
        for task in config.tasks
        for shard in complete_task(config, "final", task.name).shards
    ]
    return train, np.concatenate(val).astype(float), own, norms


def spearman_rows(predicted: Float64, actual: Float64) -> Float64:
    """[M]: rank correlation over the halves (first axis) of each column."""
    ranks = [np.argsort(np.argsort(values, axis=0), axis=0).astype(float) for values in (predicted, actual)]
    a, b = (r - r.mean(axis=0) for r in ranks)
    result: Float64 = (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))
    return result


def with_interval(values: Float64) -> dict[str, float]:
    drawn = np.random.Generator(np.random.PCG64(0)).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def roc_area(scores: Float64, positive: npt.NDArray[np.bool_]) -> float:
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    count = positive.sum()
    return float((ranks[positive].sum() - count * (count - 1) / 2) / (count * (~positive).sum()))


def influences(folder: Path) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Influence [M, N] by name, and what is known of each training row [N] by name."""
    made: dict[str, Float64] = {}
    of_rows: dict[str, Float64] = {}
    for kind in TYPES:
        train_ND, val_MD, own, norms = stored(config_of(folder, kind))
        made[f"{kind}, sketched"] = val_MD @ train_ND.T
        if kind == "sgd":
            made["sgd, sketched, times the row's norm"] = val_MD @ train_ND.T * norms
            gram = train_ND.T @ train_ND
            inverse = np.linalg.inv(gram + 0.1 * np.trace(gram) / len(gram) * np.eye(len(gram)))
            made["sgd, ridge"] = val_MD @ inverse @ train_ND.T
            of_rows = {"loss": own, "gradient norm": norms, "leverage": ((train_ND @ inverse) * train_ND).sum(1)}
    config = config_of(folder, "sgd")
    model = attach_adapter(load_base(config.model), RunFolder(config.output_dir).adapter("final", None))

    def exact(section: TrainConfig | TaskConfig) -> torch.Tensor:
        return unit_rows(exact_gradients(model, DataSource(open_records(section.parts), model.inputs)))

    made["sgd, exact"] = (torch.cat([exact(task) for task in config.tasks]) @ exact(config.train).T).numpy()
    return made, of_rows


def main(
    folder: Annotated[Path, typer.Option(help="where everything is kept; give it again to go on")],
    records: Annotated[int, typer.Option(help="training records")] = 600,
    halves: Annotated[int, typer.Option(min=3, help="retrained")] = 60,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    results: Annotated[Path | None, typer.Option("--json", help="write the numbers there")] = None,
) -> None:
    """Measure what influence predicts, which wrong answers it finds, and whether it knows the task."""
    facts = circumstances(torch.device("cpu"))
    typer.echo(describe(facts))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, records)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_the_parent) as pool:
        work: Callable[[Path, int], None] = retrain
        for done in [pool.submit(work, folder, number) for number in range(halves)]:
            done.result()
    actual = losses(folder, halves)
    made, of_rows = influences(folder)
    config = config_of(folder, "sgd")
    sources = [open_records(config.train.parts)[row]["source"] for row in range(records)]
    wrong = np.array([source == WRONG for source in sources])
    own_source = np.array(
        [open_records(t.parts)[0]["source"] for t in config.tasks for _ in range(len(open_records(t.parts)))]
    )
    member = np.zeros((halves, records))
    for number in range(halves):
        member[number, half(records, number)] = 1
    table: dict[str, Any] = {}
    for name, influence in made.items():
        nearest = np.argsort(-influence, axis=1, kind="stable")[:, :10]
        same = (np.array(sources)[nearest] == own_source[:, None]).mean(axis=1)
        table[name] = {
            "lds": with_interval(spearman_rows(-(member @ influence.T), actual)),
            "same_task": with_interval(same),
            "wrong_answers": roc_area(-influence.mean(axis=0), wrong),
        }
    scores = np.stack([made["sgd, sketched"][own_source == s].mean(axis=0) for s in dict.fromkeys(own_source)], axis=1)
    valid = np.ones(records, np.bool_)
    votes = cast_votes(scores.astype(np.float32), valid, thresholds(scores.astype(np.float32), valid, 20))
    of_rows["few votes"] = -votes.astype(float)
    finders = {name: roc_area(values, wrong) for name, values in of_rows.items()}
    typer.echo(f"{'influence':<38}{'LDS':>8}{'95% interval':>18}{'same task':>11}{'wrong, AUC':>12}")
    for name, row in table.items():
        between = f"[{row['lds']['low']:.3f}, {row['lds']['high']:.3f}]"
        typer.echo(
            f"{name:<38}{row['lds']['mean']:>8.3f}{between:>18}{row['same_task']['mean']:>11.2f}"
            f"{row['wrong_answers']:>12.3f}"
        )
    typer.echo("finding wrong answers, AUC: " + ", ".join(f"{name} {area:.3f}" for name, area in finders.items()))
    if results:
        content = {"records": records, "halves": halves, "influence": table, "wrong_answers": finders}
        results.write_text(json.dumps(facts | {"results": content}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
