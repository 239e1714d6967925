"""The program itself: its name, its help, and what may be said before any command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from icons import __version__
from icons.progress import log_to, only_errors

PIPELINE, TRAINING, LOOK, SET_UP = "Pipeline", "Training and use", "Look", "Set-up"

app = typer.Typer(
    name="icons",
    help="Pick the small part of a vision-language instruction-tuning set that is worth training on (ICONS).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run's config file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. selection.percent=10. Repeatable."),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"icons {__version__}")
        raise typer.Exit


ANSWERS = ("status", "inspect", "compare", "validate")
"""Commands whose result is what they say: these are never quiet."""


@app.callback()
def before(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and answers.")] = False,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write every line there, with date and time.")
    ] = None,
) -> None:
    only_errors(quiet and context.invoked_subcommand not in ANSWERS)
    if log is not None:
        log_to(log, ["icons", *sys.argv[1:]])
