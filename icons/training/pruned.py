"""A training whose epochs differ in length: batches of what InfoBatch keeps, its learning rate, and its state.

An epoch is planned when the first of its batches is asked for, once the losses of the one before are known; nothing is
fetched ahead across that line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from icons.store.files import write_tensors
from icons.training.infobatch import InfoBatch, SamplePasses
from icons.training.processes import Processes
from icons.training.sampler import Int64, epoch_order

STATE = "infobatch.safetensors"
"""In a checkpoint: scores [N] and weights [N] of the epoch begun, and what the epochs so far have kept."""

MakeLoader = Callable[[list[list[int]]], Iterable[dict[str, Any]]]


class PrunedEpochs:
    """The batches of the whole training, for this one of `processes`.

    `lengths` [N] and `images` [N] as for `epoch_order`; `targets` [N]: predicted tokens; `full_steps`: steps of the
    training without pruning, which may end within an epoch. `seed` is that of the order.
    """

    def __init__(
        self,
        pruning: InfoBatch,
        lengths: Int64,
        images: npt.NDArray[np.bool_],
        targets: Int64,
        full_steps: int,
        batch_size: int,
        gradient_accumulation: int,
        seed: int,
        processes: Processes,
    ) -> None:
        self.pruning, self.lengths, self.images, self.targets = pruning, lengths, images, targets
        self.full_steps, self.batch_size, self.gradient_accumulation = full_steps, batch_size, gradient_accumulation
        self.seed, self.processes = seed, processes
        self.step_size = batch_size * gradient_accumulation * processes.count
        self.full_epoch_steps = -(-len(lengths) // self.step_size)
        self.epochs = -(-full_steps // self.full_epoch_steps)
        self.scores = np.full(len(lengths), np.nan, np.float32)
        self.weights = np.ones(len(lengths), np.float32)
        self.kept: list[int] = []  # samples of every epoch begun
        self._seen: list[tuple[Int64, Tensor]] = []

    def batches(self, done_steps: int, make_loader: MakeLoader) -> Iterator[dict[str, Any]]:
        """This process's batches behind step `done_steps`: `gradient_accumulation` of them a step, in every process.

        Beside what `make_loader`'s collate gives, a batch has `positions` [B] and `factors` [B]: what each sample's
        mean loss enters the step's loss with.
        """
        while not self.finished(done_steps):
            if done_steps == self._steps_begun():
                self._begin_epoch()
            epoch = len(self.kept) - 1
            first = self._steps_begun() - self.epoch_steps(epoch)
            factors = (self.weights * self._coefficients(epoch)).astype(np.float32)
            mine = self._dealt(epoch)[(done_steps - first) * self.gradient_accumulation :]
            for (rows, real), batch in zip(mine, make_loader([rows for rows, _ in mine]), strict=True):
                batch["positions"] = torch.tensor(rows)
                batch["factors"] = torch.from_numpy(factors[rows]) * real
                yield batch
            done_steps = self._steps_begun()

    def _begin_epoch(self) -> None:
        self.collect_scores()
        epoch = len(self.kept)
        if epoch in self.pruning.pruned_epochs(self.epochs):
            self.weights = self.pruning.weights(self.scores, epoch, self.seed)
        else:
            self.weights = np.ones(len(self.scores), np.float32)
        kept = int(np.count_nonzero(self.weights))
        if epoch == self.epochs - 1:
            kept = min(kept, (self.full_steps - epoch * self.full_epoch_steps) * self.step_size)
        self.kept.append(kept)

    def _dealt(self, epoch: int) -> list[tuple[list[int], float]]:
        """The positions of this process's batches, and 0 for a batch that only fills a step up, else 1.

        A step's samples are cut into batches as accelerate would deal them. The few of an epoch's last step are spread
        over all of them; where they are fewer than those, the others get a sample that counts for nothing.
        """
        kept = np.flatnonzero(self.weights)
        order = kept[epoch_order(self.lengths[kept], self.images[kept], self.step_size, self.seed, epoch)]
        order = order[: self.kept[epoch]]
        parts = self.gradient_accumulation * self.processes.count
        dealt: list[tuple[list[int], float]] = []
        for start in range(0, len(order), self.step_size):
            step = order[start : start + self.step_size]
            for part in np.array_split(step, parts)[self.processes.rank :: self.processes.count]:
                dealt.append((part.tolist(), 1.0) if len(part) else ([int(step[-1])], 0.0))
        return dealt

    def _coefficients(self, epoch: int) -> npt.NDArray[np.float64]:
        """[N]: a sample's predicted tokens over those of its step in the epoch without pruning.

        There a step's loss is the mean over its tokens. With these coefficients, whatever is dropped, an epoch's summed
        gradient has that of the whole epoch as its expectation.
        """
        order = epoch_order(self.lengths, self.images, self.step_size, self.seed, epoch)
        steps = np.arange(len(order)) // self.step_size
        of_step = np.bincount(steps, self.targets[order])
        coefficients = np.empty(len(order))
        coefficients[order] = self.targets[order] / of_step[steps]
        return coefficients

    def epoch_steps(self, epoch: int) -> int:
        return -(-self.kept[epoch] // self.step_size)

    def _steps_begun(self) -> int:
        return sum(self.epoch_steps(epoch) for epoch in range(len(self.kept)))

    def most_steps(self) -> int:
        """Steps of the training when nothing more is dropped from the epochs to come."""
        begun = len(self.kept)
        return self._steps_begun() + (self.full_steps - begun * self.full_epoch_steps if begun < self.epochs else 0)

    def finished(self, done_steps: int) -> bool:
        return len(self.kept) == self.epochs and done_steps == self._steps_begun()

    def full_step(self, done_steps: int) -> float:
        """How far `done_steps` steps are, in steps of the training without pruning."""
        left = done_steps
        for epoch in range(len(self.kept)):
            steps = self.epoch_steps(epoch)
            if left <= steps:
                last = epoch == self.epochs - 1
                full = self.full_steps - epoch * self.full_epoch_steps if last else self.full_epoch_steps
                return epoch * self.full_epoch_steps + full * left / steps
            left -= steps
        return 0.0

    def rate(self, done_steps: int, warmup_steps: int) -> float:
        """The factor of the learning rate behind `done_steps` steps: linear, then a cosine to zero at the end.

        By `full_step`, so that it depends on the share of the epochs that is done, as without pruning.
        """
        step = self.full_step(done_steps)
        if step < warmup_steps:
            return step / max(1, warmup_steps)
        progress = (step - warmup_steps) / max(1, self.full_steps - warmup_steps)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))

    def passes(self, done_steps: int) -> SamplePasses:
        """So far; `full` counts the epochs begun, the last one as far as it has come."""
        done, full, left = 0, 0, done_steps
        for epoch, kept in enumerate(self.kept):
            now = min(kept, left * self.step_size)
            done += now
            whole = kept if epoch == self.epochs - 1 else len(self.scores)
            full += whole if now == kept else round(now * whole / kept)
            left -= min(left, self.epoch_steps(epoch))
        return SamplePasses(done, full)

    def saw(self, positions: Tensor, factors: Tensor, losses: Tensor) -> None:
        """Mean losses [B] of samples at `positions`, not to be known before `collect_scores`."""
        self._seen.append((positions[factors != 0].cpu().numpy(), losses.detach()[factors != 0]))

    def collect_scores(self) -> None:
        """Every process's losses into everybody's scores; all call it at the same moment."""
        positions = np.concatenate([np.zeros(0, np.int64), *(positions for positions, _ in self._seen)])
        losses = torch.cat([losses.float() for _, losses in self._seen]).cpu().numpy() if self._seen else np.zeros(0)
        self._seen = []
        for at, values in self.processes.gather((positions, losses)):
            self.scores[at] = values

    def save(self, checkpoint: Path) -> None:
        """Call `collect_scores` before."""
        tensors = {"scores": self.scores, "weights": self.weights}
        write_tensors(checkpoint / STATE, tensors, {"kept": json.dumps(self.kept)})

    def restore(self, checkpoint: Path) -> None:
        with safe_open(checkpoint / STATE, framework="np") as file:
            self.scores, self.weights = file.get_tensor("scores"), file.get_tensor("weights")
            self.kept = json.loads(file.metadata()["kept"])
