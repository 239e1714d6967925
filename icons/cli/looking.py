"""The commands that look, and change nothing of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icons.cli.program import LOOK, ConfigFile, Overrides, app
from icons.config import Config
from icons.config_file import load_config
from icons.opening import open_config, run_stage
from icons.stop import stoppable


@app.command(rich_help_panel=LOOK)
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Read everything that a run will need, without a GPU, and list all problems."""
    opened = load_config(config, overrides or [])
    from icons.stages.checks.validate import validate as stage

    stage(opened)


@app.command(rich_help_panel=LOOK)
def inspect(
    config: ConfigFile,
    row: Annotated[int, typer.Option(help="Row in the data file, counted from 0.", show_default=False)],
    task: Annotated[str | None, typer.Option(help="A task's file instead of the training file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Ids, labels and image size as JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Show one record as the model sees it: text, ids, labels, image size, what is masked."""
    opened = open_config(config, overrides, write=False)
    from icons.stages.checks.inspect import inspect_record

    inspect_record(opened, row, task, as_json)


@app.command(rich_help_panel=LOOK)
def status(
    config: ConfigFile,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every ten seconds until all is done.")] = False,
    overrides: Overrides = None,
) -> None:
    """Show what is done, running, failed and missing, stage by stage."""
    from icons.stages.checks.status_table import print_status

    print_status(load_config(config, overrides or []), as_json=as_json, watch=watch)


@app.command(rich_help_panel=LOOK)
def report(
    config: ConfigFile,
    selection: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="This selection, and those to compare with it. Repeatable; default: all."),
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="The figures also as PDF, in two widths, for a paper.")] = False,
    overrides: Overrides = None,
) -> None:
    """Write one page that shows what was selected, why, and how it was made."""

    def stage(opened: Config) -> None:
        from icons.stages.report.report import report

        report(opened, selection, pdf=pdf, path=config.resolve())

    run_stage(config, overrides, stage)


@app.command(rich_help_panel=LOOK)
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A selection's folder or index file, records, or a config.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other selection; behind a config its name.")],
    c: Annotated[
        str | None, typer.Argument(metavar="[C]", help="Behind a config the name of the second.", show_default=False)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The training data, or a config that names it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show how far two selections agree: `compare A B`, or by name `compare CONFIG.yaml vote-20 vote-10`."""
    from icons.stages.generalist.compare import compare as stage
    from icons.stages.generalist.compare import of_run

    if c is None:
        stage(a, b, data, as_json)
    else:
        first, second = of_run(a, str(b), c)
        stage(first, second, data or a, as_json)


@app.command(rich_help_panel=LOOK)
def table(
    config: ConfigFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .csv or .parquet.", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Write one row a record, with votes, scores, loss, norm and every selection of the run."""
    opened = load_config(config, overrides or [])
    from icons.stages.export.table import table as stage

    with stoppable():
        stage(opened, out)
