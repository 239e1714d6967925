"""`icons run`: every stage in order; what is finished is skipped.

The tasks come before the training data: they are small, so that a mistake in them shows at once, and exact influence
needs them first.
"""

from __future__ import annotations

from icons.config import Config
from icons.stages.generalist.evidence import selection_method
from icons.stages.generalist.generalist import generalist
from icons.stages.report.report import report
from icons.stages.specialist.checkpoints import checkpoint_weights
from icons.stages.specialist.merge import merge
from icons.stages.specialist.specialist import specialist
from icons.stages.specialist.train_grads import train_grads
from icons.stages.specialist.val_grads import val_grads
from icons.stages.training.warmup import warmup
from icons.stop import leave_if_asked


def run(config: Config) -> None:
    selection_method(config)  # a plugin that cannot be loaded is told before the long work
    warmup(config)
    checkpoint_weights(config)  # what the specialist will need, asked for before the long work
    for stage in (val_grads, train_grads, merge, specialist, generalist, report):
        stage(config)
        leave_if_asked()
