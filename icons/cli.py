"""The command line: parse, load the config, call one stage. Nothing here imports torch at the top."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from icons.atomic import new_folder
from icons.config import Config
from icons.config_file import load_config
from icons.errors import UserError
from icons.exits import exit_codes
from icons.opening import open_config, require_new, run_stage
from icons.stop import stoppable

app = typer.Typer(
    name="icons",
    help="Pick the small part of a vision-language instruction-tuning set that is worth training on (ICONS).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run's config file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. selection.percent=10. Repeatable."),
]


@app.command()
def warmup(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train a LoRA adapter on a small random part of the data."""
    from icons.stages.training.warmup import warmup as stage

    run_stage(config, overrides, stage, "warmup", several_processes=True)


@app.command()
def finetune(
    config: ConfigFile,
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
    from icons.stages.training.finetune import choose
    from icons.stages.training.finetune import finetune as stage

    def chosen(opened: Config) -> None:
        stage(opened, choose(opened, indices, everything, random_seed), name, merged=merged)

    run_stage(config, overrides, chosen, "finetune", several_processes=True)


@app.command()
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
    from icons.stages.training.evaluate import evaluate as stage

    run_stage(config, overrides, lambda opened: stage(opened, of, generate=generate, as_json=as_json), "evaluate")


@app.command()
def train_grads(
    config: ConfigFile,
    chunk: Annotated[int | None, typer.Option(help="Only this chunk, counted from 0 (one array task).")] = None,
    overrides: Overrides = None,
) -> None:
    """Compute the gradient features of the training data, every missing chunk of it."""
    from icons.stages.specialist.train_grads import train_grads as stage

    run_stage(config, overrides, lambda opened: stage(opened, chunk), "train-grads")


@app.command()
def merge(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check that all chunks are there and belong together, and index them."""
    from icons.stages.specialist.merge import merge as stage

    run_stage(config, overrides, stage, "merge")


@app.command()
def val_grads(
    config: ConfigFile,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    overrides: Overrides = None,
) -> None:
    """Compute the gradient features of the target tasks, every missing one."""
    from icons.stages.specialist.val_grads import val_grads as stage

    run_stage(config, overrides, lambda opened: stage(opened, task), "val-grads")


@app.command()
def specialist(config: ConfigFile, overrides: Overrides = None) -> None:
    """Score every training sample's influence on every task (stage 1)."""
    from icons.stages.specialist.specialist import specialist as stage

    run_stage(config, overrides, stage, "specialist")


@app.command()
def generalist(config: ConfigFile, overrides: Overrides = None) -> None:
    """Vote over the tasks and write the selection (stage 2)."""
    from icons.stages.generalist.generalist import generalist as stage

    run_stage(config, overrides, stage, "generalist")


@app.command()
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
    from icons.stages.generalist.trial import trial as stage

    names = [name.strip() for name in methods.split(",") if name.strip()]
    measures = [measure for measure in MEASURES if measure != "generated"]
    if by is not None and by not in measures:
        raise UserError(f"--by {by}: expected one of {', '.join(measures)}")

    def chosen(opened: Config) -> None:
        stage(opened, names, percent=percent, seeds=seeds, steps=steps, by=by, as_json=as_json)

    run_stage(config, overrides, chosen)


@app.command()
def report(
    config: ConfigFile,
    selection: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="This selection, and those to compare with it. Repeatable; default: all."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Write one page that shows what was selected, why, and how it was made."""
    from icons.stages.report.report import report as stage

    run_stage(config, overrides, lambda opened: stage(opened, selection))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="selected_indices.json, or LLaVA records.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same of the other selection.")],
    data: Annotated[Path | None, typer.Option(help="The training data, or a config that names it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show how far two selections agree, over all and by source and votes."""
    from icons.stages.generalist.compare import compare as stage

    stage(a, b, data, as_json)


@app.command()
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """All stages in order, from the warm-up to the selection; finished ones are skipped."""
    from icons.pipeline import run as pipeline

    run_stage(config, overrides, pipeline, "run")


@app.command()
def status(
    config: ConfigFile,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every ten seconds until all is done.")] = False,
    overrides: Overrides = None,
) -> None:
    """Show what is done, running, failed and missing, stage by stage."""
    from icons.stages.checks.status_table import print_status

    print_status(load_config(config, overrides or []), as_json=as_json, watch=watch)


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Read everything that a run will need, without a GPU, and list all problems."""
    from icons.stages.checks.validate import validate as stage

    stage(load_config(config, overrides or []))


@app.command()
def inspect(
    config: ConfigFile,
    row: Annotated[int, typer.Option(help="Row in the data file, counted from 0.", show_default=False)],
    task: Annotated[str | None, typer.Option(help="A task's file instead of the training file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Ids, labels and image size as JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Show one record as the model sees it: text, ids, labels, image size, what is masked."""
    from icons.stages.checks.inspect import inspect_record

    inspect_record(open_config(config, overrides, write=False), row, task, as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's data, model and run.")] = Path("demo"),
) -> None:
    """Draw a small multi-task VQA set, train a tiny LLaVA on it and select 20% of it."""
    from icons.demo.demo import demo as run_demo

    run_demo(out)


@app.command()
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


@app.command()
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


@app.command()
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


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits as `icons.exits` says."""
    # Read when torch loads. Threads that spin while they wait made a shared two-core machine twelve times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Processes that decode images are forked after tokenising; each of them turns the tokenizer's threads off.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Products and sums in one step, as all versions of Triton did before the default was announced to change.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    # A GPU's memory in pieces that grow: batches of changing lengths leave no holes that nothing fits in.
    if "PYTORCH_ALLOC_CONF" not in os.environ:  # the name of newer versions, which this one would overrule
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with exit_codes():
        app(args=arguments, prog_name="icons")
