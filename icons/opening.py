"""From a command to a stage: the config opened with all its files there, the stage run, its settings kept.

Nothing here imports torch at the top.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from icons.config import Config
from icons.config_file import load_config, missing_files
from icons.errors import UserError
from icons.stop import stoppable


def run_stage(
    path: Path,
    overrides: list[str] | None,
    stage: Callable[[Config], None],
    command: str = "",
    *,
    several_processes: bool = False,
) -> None:
    """One stage, and when it is done the sections of the config that `command` was run with beside its results.

    Not before: a stage that refuses to mix must leave what describes the results alone. Of several processes the main
    one writes; a stage that cannot share its work refuses them.
    """
    from icons.settings import keep_settings
    from icons.training.processes import Processes

    processes = Processes.from_environment()
    if processes.count > 1 and not several_processes:
        raise UserError("only `icons warmup` and `icons finetune` run in several processes; start this one plainly")
    config = open_config(path, overrides)
    with stoppable():
        stage(config)
    if not processes.main:
        return
    keep_settings(config, path, command)


def require_new(folder: Path) -> None:
    """Raises UserError unless nothing, or an empty folder, is there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty; choose a new folder")


def open_config(path: Path, overrides: list[str] | None, *, write: bool = True) -> Config:
    """The config with all its files there and, to `write`, its output folder."""
    config = load_config(path, overrides or [])
    problems = missing_files(config)
    if problems:
        raise UserError("\n".join(f"{path}: {problem}" for problem in problems))
    if write:
        try:
            config.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output_dir: {config.output_dir} cannot be written to ({error.strerror})") from None
    return config
