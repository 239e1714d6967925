"""`icons run`: every stage in order; what is finished is skipped.

The tasks come before the training data: they are small, so that a mistake in them shows at once, and exact influence
needs them first.
"""

from __future__ import annotations

from icons.config import Config
from icons.progress import say
from icons.stages.checks.plan import plan
from icons.stages.generalist.generalist import generalist
from icons.stages.report.report import report
from icons.stages.specialist.checkpoints import checkpoint_weights
from icons.stages.specialist.merge import merge
from icons.stages.specialist.specialist import specialist
from icons.stages.specialist.train_grads import time_left, train_grads
from icons.stages.specialist.val_grads import val_grads
from icons.stages.training.warmup import warmup
from icons.stop import leave_if_asked

STAGES = (warmup, val_grads, train_grads, merge, specialist, generalist, report)


def run(config: Config, *, dry: bool = False) -> None:
    """Says the plan, and carries it out unless `dry`; what would stop a late stage stops it here."""
    for line in plan(config).lines(config.output_dir):
        say(line)
    if dry:
        return
    for number, stage in enumerate(STAGES, 1):
        if stage is val_grads:
            checkpoint_weights(config)  # what the specialist will need, asked for before the long work
        left = time_left(config) if stage is train_grads else ""
        say(f"stage {number} of {len(STAGES)}: {stage.__name__.replace('_', '-')}{left}")
        stage(config)
        leave_if_asked()
