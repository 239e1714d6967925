"""The commands to start with: a demo, a config, a tiny model, models and adapters from their published parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icons.atomic import new_folder
from icons.cli.program import SET_UP, app
from icons.errors import UserError
from icons.opening import require_new


@app.command(rich_help_panel=SET_UP)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's data, model and run.")] = Path("demo"),
) -> None:
    """Draw a small multi-task VQA set, train a tiny LLaVA on it and select 20% of it."""
    from icons.demo.demo import demo as run_demo

    run_demo(out)


@app.command(rich_help_panel=SET_UP)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write, new or empty.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="A Hugging Face folder, or the id of a model of the Hub.")] = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="The training data.")] = None,
    images: Annotated[
        str | None, typer.Option(metavar="PATH", help="The folder of the images, of the data and of the tasks.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="A task and its validation samples. Repeatable.")
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="PATH", help="Folder of the results; default: DIR/run.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Also the scripts for Slurm, in DIR/scripts.")] = False,
    configs: Annotated[
        bool, typer.Option("--configs", help="Also a config with every key and the published runs', in DIR/configs.")
    ] = False,
) -> None:
    """Write a commented config for a run of your own, from the answers that you give as options."""
    require_new(folder)
    for option, answer in (("model", model), ("data", data), ("images", images), ("output", output)):
        if answer == "":
            raise UserError(f"--{option} is empty; leave it out to fill it in later")
    from icons.new_config import Answers, start_run

    tasks = []
    for each in task or []:
        name, equals, path = each.partition("=")
        if not (name and equals and path):
            raise UserError(f"--task {each}: expected NAME=PATH, for example --task gqa=val/gqa.json")
        tasks.append((name, path))
    start_run(folder, Answers(model, data, images, tuple(tasks), output), slurm=slurm, configs=configs)


@app.command(rich_help_panel=SET_UP)
def tiny_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
) -> None:
    """Write a tiny LLaVA with random weights: the real classes, small sizes, no download."""
    require_new(folder)
    from icons.models.tiny import build_tiny_llava

    with new_folder(folder) as filled:
        build_tiny_llava(filled, seed=seed)
    typer.echo(f"tiny-model: written to {folder}")


@app.command(rich_help_panel=SET_UP)
def assemble(
    llm: Annotated[Path, typer.Option(metavar="DIR", help="Vicuna-7B-v1.5, or another Llama.", show_default=False)],
    vision: Annotated[Path, typer.Option(metavar="DIR", help="CLIP ViT-L/14-336.", show_default=False)],
    projector: Annotated[Path, typer.Option(metavar="FILE", help="LLaVA's mm_projector.bin.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
) -> None:
    """Put LLaVA before instruction tuning together from its published parts, as one Hugging Face folder."""
    require_new(out)
    from icons.models.assemble import assemble_llava

    with new_folder(out) as filled:
        assemble_llava(llm, vision, projector, filled)
    typer.echo(f"assemble: written to {out}")


@app.command(rich_help_panel=SET_UP)
def import_adapter(
    llava: Annotated[
        Path,
        typer.Argument(
            metavar="LLAVA_DIR", help="What LLaVA's training wrote: adapter_config.json and so on.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="PEFT folder to write.", show_default=False)],
) -> None:
    """Convert an adapter that the original LLaVA code trained, with its projector, to PEFT's format."""
    require_new(out)
    from icons.models.llava_adapter import import_llava_adapter

    with new_folder(out) as filled:
        count = import_llava_adapter(llava, filled)
    typer.echo(f"import-adapter: {count} tensors written to {out}; name it in model.adapter")
