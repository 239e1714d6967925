"""`icons run`: every stage in order; what is finished is skipped."""

from __future__ import annotations

from icons.config import Config
from icons.stages.generalist import generalist
from icons.stages.merge import merge
from icons.stages.specialist import specialist
from icons.stages.train_grads import train_grads
from icons.stages.val_grads import val_grads
from icons.stages.warmup import warmup


def run(config: Config) -> None:
    for stage in (warmup, train_grads, merge, val_grads, specialist, generalist):
        stage(config)
