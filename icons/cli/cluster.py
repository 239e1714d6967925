"""What the Slurm scripts call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icons.cli.program import ConfigFile, Overrides, app
from icons.config_file import load_config
from icons.opening import open_config, run_stage
from icons.stop import stoppable


@app.command(hidden=True)
def job(
    stage: Annotated[str, typer.Argument(help="The command, e.g. train-grads.", show_default=False)],
    checkpoint: Annotated[str | None, typer.Argument(help="Instead of the config's checkpoints.")] = None,
    config: Annotated[Path, typer.Option(envvar="ICONS_CONFIG", help="The run's config file.")] = Path(
        "configs/llava_665k.yaml"
    ),
    chunk: Annotated[int | None, typer.Option(help="Instead of the array index.")] = None,
    task: Annotated[str | None, typer.Option(help="Instead of the array index.")] = None,
    offset: Annotated[int, typer.Option(help="Added to the array index.")] = 0,
    overrides: Overrides = None,
) -> None:
    """What the scripts run: a stage in a Slurm job, or its own chunk or task in an array."""
    from icons.cluster.job import checkpoint_overrides, find_job, stage_function

    overrides = [*(overrides or []), *checkpoint_overrides(checkpoint)]
    with stoppable(last=True):
        job = find_job(load_config(config, overrides), stage, chunk, task, offset)
        if job is not None:
            with job.watched():
                run_stage(config, overrides, stage_function(job), job.stage)


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def submit(
    config: ConfigFile,
    options: Annotated[list[str] | None, typer.Argument(metavar="[SBATCH OPTIONS]")] = None,
    scripts: Annotated[Path, typer.Option(help="The folder of the sbatch scripts.")] = Path("scripts"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the commands.")] = False,
    overrides: Overrides = None,
) -> None:
    """Submit what is missing of a run to Slurm, each stage behind the one it needs."""
    from icons.cluster.submission import submit_run

    opened = open_config(config, overrides, write=not dry_run)
    submit_run(opened, config, overrides or [], scripts, options or [], dry_run=dry_run)
