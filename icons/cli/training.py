"""The commands that use a selection: training, asking what was trained, handing it to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icons.cli.program import TRAINING, ConfigFile, Overrides, app
from icons.config import Config
from icons.errors import UserError
from icons.opening import open_config, require_new, run_stage
from icons.stop import stoppable


@app.command(rich_help_panel=TRAINING)
def trial(
    config: ConfigFile,
    methods: Annotated[str, typer.Option(help="Separated by commas; random is always among them.")] = (
        "vote,proportional,coverage,random"
    ),
    percent: Annotated[float, typer.Option(min=0, max=100, help="Records selected by each.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each method.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a training, at most.")] = 200,
    by: Annotated[
        str | None, typer.Option(help="loss, token_accuracy or exact; by default exact where that can tell.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Try methods on small selections with short trainings, and say which of them to trust here."""
    from icons.evaluation.measures import MEASURES

    names = [name.strip() for name in methods.split(",") if name.strip()]
    measures = [measure for measure in MEASURES if measure != "generated"]
    if by is not None and by not in measures:
        raise UserError(f"--by {by}: expected one of {', '.join(measures)}")

    def chosen(opened: Config) -> None:
        from icons.stages.generalist.trial import trial as stage

        stage(opened, names, percent=percent, seeds=seeds, steps=steps, by=by, as_json=as_json)

    run_stage(config, overrides, chosen)


@app.command(rich_help_panel=TRAINING)
def finetune(
    config: ConfigFile,
    selection: Annotated[
        str | None, typer.Option(metavar="NAME", help="A folder under selection/; default: the config's.")
    ] = None,
    indices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Train on these rows: a selection, or a JSON list.")
    ] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Train on all of the data.")] = False,
    random_seed: Annotated[
        int | None,
        typer.Option("--random", metavar="SEED", min=0, help="Train on a random part as large as the selection."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The folder under finetune/; by default it tells the rows.")] = None,
    merged: Annotated[bool, typer.Option("--merge", help="Also write the merged model, for evaluation.")] = False,
    overrides: Overrides = None,
) -> None:
    """Train a LoRA adapter and the projector on the selection (the final run)."""

    def chosen(opened: Config) -> None:
        from icons.stages.training.finetune import choose
        from icons.stages.training.finetune import finetune as stage

        stage(opened, choose(opened, selection, indices, everything, random_seed), name, merged=merged)

    run_stage(config, overrides, chosen, "finetune", several_processes=True)


@app.command(rich_help_panel=TRAINING)
def evaluate(
    config: ConfigFile,
    of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A folder under finetune/, warmup, or base. Repeatable; default: all but base."
        ),
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Also generate the answers, greedily, and compare the text.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Measure what was trained on held-out records: token loss, tokens and answers right, with intervals."""

    def stage(opened: Config) -> None:
        from icons.stages.training.evaluate import evaluate

        evaluate(opened, of, generate=generate, as_json=as_json)

    run_stage(config, overrides, stage, "evaluate")


@app.command(rich_help_panel=TRAINING)
def export(
    config: ConfigFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    selection: Annotated[
        str | None, typer.Option(metavar="NAME", help="A folder under selection/; default: the config's.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="llava, sharegpt, messages, parquet or hf; default: as the input is."),
    ] = None,
    paths: Annotated[
        bool, typer.Option("--paths", help="Of parquet and hf: images as absolute paths, not in the file.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="All records, the selection as columns: weight, votes, value, scores.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Write the selected records for another trainer: LLaMA-Factory, ms-swift, TRL, LLaVA."""
    require_new(out)
    opened = open_config(config, overrides, write=False)
    from icons.stages.export.export import export as stage

    with stoppable():
        stage(opened, out, selection, form, paths=paths, whole=whole)
