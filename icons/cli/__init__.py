"""The command line: parse, load the config, call one stage. Nothing here imports torch at the top."""

from __future__ import annotations

import gc
import os

from icons.cli.program import app
from icons.exits import exit_codes

# isort: off
# The order of the help: the pipeline first.
from icons.cli import stages
from icons.cli import training
from icons.cli import looking
from icons.cli import starting
from icons.cli import cluster
# isort: on

__all__ = ["app", "cluster", "looking", "main", "stages", "starting", "training"]


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
    # Imports make objects that stay; looking through them every 700 was a tenth of a start, and more.
    gc.set_threshold(10_000, 20, 20)
    with exit_codes():
        app(args=arguments, prog_name="icons")
