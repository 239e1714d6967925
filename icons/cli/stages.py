"""The commands of the pipeline: each opens the config, then loads and runs its stage."""

from __future__ import annotations

from typing import Annotated

import typer

from icons.cli.program import PIPELINE, ConfigFile, Overrides, app
from icons.config import Config
from icons.opening import open_config, run_stage
from icons.selection.methods import built_in


@app.command(rich_help_panel=PIPELINE)
def run(
    config: ConfigFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Open all files, say the plan, and stop.")] = False,
    overrides: Overrides = None,
) -> None:
    """All stages in order, from the warm-up to the selection and its page; finished ones are skipped."""
    if dry_run:
        opened = open_config(config, overrides, write=False)
        from icons.pipeline import run

        run(opened, dry=True)
        return

    def stage(opened: Config) -> None:
        from icons.pipeline import run

        run(opened)

    run_stage(config, overrides, stage, "run")


@app.command(rich_help_panel=PIPELINE)
def warmup(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train a LoRA adapter on a small random part of the data."""

    def stage(opened: Config) -> None:
        from icons.stages.training.warmup import warmup

        warmup(opened)

    run_stage(config, overrides, stage, "warmup", several_processes=True)


@app.command(rich_help_panel=PIPELINE)
def train_grads(
    config: ConfigFile,
    chunk: Annotated[int | None, typer.Option(help="Only this chunk, counted from 0 (one array task).")] = None,
    overrides: Overrides = None,
) -> None:
    """Compute the gradient features of the training data, every missing chunk of it."""

    def stage(opened: Config) -> None:
        from icons.stages.specialist.train_grads import train_grads

        train_grads(opened, chunk)

    run_stage(config, overrides, stage, "train-grads")


@app.command(rich_help_panel=PIPELINE)
def val_grads(
    config: ConfigFile,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    overrides: Overrides = None,
) -> None:
    """Compute the gradient features of the target tasks, every missing one."""

    def stage(opened: Config) -> None:
        from icons.stages.specialist.val_grads import val_grads

        val_grads(opened, task)

    run_stage(config, overrides, stage, "val-grads")


@app.command(rich_help_panel=PIPELINE)
def merge(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check that all chunks are there and belong together, and index them."""

    def stage(opened: Config) -> None:
        from icons.stages.specialist.merge import merge

        merge(opened)

    run_stage(config, overrides, stage, "merge")


@app.command(rich_help_panel=PIPELINE)
def specialist(config: ConfigFile, overrides: Overrides = None) -> None:
    """Score every training sample's influence on every task (stage 1)."""

    def stage(opened: Config) -> None:
        from icons.stages.specialist.specialist import specialist

        specialist(opened)

    run_stage(config, overrides, stage, "specialist")


@app.command(
    rich_help_panel=PIPELINE,
    epilog=f"Methods (--set selection.method=NAME): {', '.join(built_in())}; docs/methods.md says what each does.",
)
def generalist(config: ConfigFile, overrides: Overrides = None) -> None:
    """Vote over the tasks and write the selection (stage 2)."""

    def stage(opened: Config) -> None:
        from icons.stages.generalist.generalist import generalist

        generalist(opened)

    run_stage(config, overrides, stage, "generalist")
