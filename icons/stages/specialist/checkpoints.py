"""How much each checkpoint counts when several are summed (LESS, arXiv 2402.04333, section 3)."""

from __future__ import annotations

import numpy as np

from icons.config import Config
from icons.errors import UserError
from icons.stages.specialist.fingerprints import require_as_trained
from icons.store.files import read_json
from icons.store.layout import RunFolder


def checkpoint_weights(config: Config) -> list[float]:
    """One positive weight a checkpoint, summing to 1.

    `gradients.checkpoint_weights`, or the warm-up's mean learning rate since the checkpoint before, as its
    trainer_state.json has it. Raises UserError when neither is there.
    """
    checkpoints, weights = config.gradients.checkpoints, config.gradients.checkpoint_weights
    if weights is None:
        weights = [1.0] if len(checkpoints) == 1 else _learning_rates(config)
    return [weight / sum(weights) for weight in weights]


def _learning_rates(config: Config) -> list[float]:
    states = []
    for checkpoint in config.gradients.checkpoints:
        folder = RunFolder(config.output_dir).adapter(checkpoint, config.model.adapter)
        path = folder / "trainer_state.json"
        if config.model.adapter is None and folder.is_dir():
            require_as_trained(folder, [path.name])
        if not path.is_file():
            raise UserError(
                f"{path} does not exist, so the checkpoints have no weights; set gradients.checkpoint_weights"
            )
        states.append(read_json(path))
    steps = [state["global_step"] for state in states]
    means = []
    for state, step in zip(states, steps, strict=True):
        before = max((other for other in steps if other < step), default=0)
        logged = [e for e in state["log_history"] if "learning_rate" in e and before < e["step"] <= step]
        if not logged:
            raise UserError(
                f"the warm-up logged no learning rate from step {before + 1} to {step}; "
                "set gradients.checkpoint_weights"
            )
        means.append(float(np.mean([entry["learning_rate"] for entry in logged])))
    if min(means) <= 0:
        raise UserError("a checkpoint's mean learning rate is 0; set gradients.checkpoint_weights")
    return means
