"""Where everything lies under `output_dir`."""

from __future__ import annotations

from pathlib import Path

INDICES, DATA = "selected_indices.json", "selected_data.json"
VOTES, STABILITY = "votes.safetensors", "stability.json"
"""The files of a selection."""


class RunFolder:
    """Paths of one run; nothing is created by asking for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.warmup = root / "warmup"
        self.influence = root / "influence"
        self.scores = self.influence / "scores.safetensors"
        self.selections = root / "selection"
        self.evaluations = root / "evaluation"
        self.trials = root / "trial"
        self.report = root / "report"

    def adapter(self, checkpoint: int | str, adapter: Path | None) -> Path:
        """The adapter folder of a checkpoint: of `model.adapter`, or of the warm-up when that is null."""
        root = adapter or self.warmup
        if checkpoint == "final":
            return adapter or root / "final"
        return root / f"checkpoint-{checkpoint}"

    def train(self, checkpoint: int | str) -> Path:
        return self.root / "train_grads" / checkpoint_name(checkpoint)

    def chunk(self, checkpoint: int | str, chunk: int, num_chunks: int) -> Path:
        return self.train(checkpoint) / f"chunk-{chunk:05d}-of-{num_chunks:05d}"

    def index(self, checkpoint: int | str) -> Path:
        return self.train(checkpoint) / "index.json"

    def task(self, checkpoint: int | str, task: str) -> Path:
        return self.root / "val_grads" / checkpoint_name(checkpoint) / task

    def matrix(self, task: str) -> Path:
        return self.influence / task

    def finetune(self, name: str) -> Path:
        return self.root / "finetune" / name

    def evaluation(self, name: str) -> Path:
        return self.evaluations / name

    def selection(self, name: str) -> Path:
        return self.selections / name


def checkpoint_name(checkpoint: int | str) -> str:
    return checkpoint if isinstance(checkpoint, str) else f"checkpoint-{checkpoint}"
