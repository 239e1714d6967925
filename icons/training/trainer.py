"""Fine-tuning with the Hugging Face Trainer: resumable, quiet, checkpoints that are whole or not counted."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from icons.atomic import flush
from icons.data.batches import one_tokenizer_thread
from icons.errors import UserError
from icons.progress import Progress
from icons.stop import asked, finishing, stop_as
from icons.store.checkpoints import (
    begin_checkpoint,
    checkpoint_step,
    checkpoints,
    finish_checkpoint,
    our_checkpoints,
)
from icons.store.whole import MARKER, damaged
from icons.training.infobatch import InfoBatch, SamplePasses
from icons.training.log import TrainingLog
from icons.training.packed import PackedSamples
from icons.training.processes import Processes
from icons.training.pruned import PrunedEpochs
from icons.training.recipe import Recipe, beside_the_lora, make_optimizer, training_arguments
from icons.training.sample_loss import sample_losses
from icons.training.sampler import GroupedSampler
from icons.training.samples import TrainingSamples


@dataclass(frozen=True)
class Trained:
    """The last logged loss, the steps made, and with pruning the sample-passes."""

    loss: float
    steps: int
    passes: SamplePasses | None = None


def fine_tune(
    model: nn.Module,
    samples: TrainingSamples,
    folder: Path,
    recipe: Recipe,
    title: str = "warmup",
    processes: Processes | None = None,
) -> Trained:
    """Trains the parameters that ask for gradients, from the newest whole checkpoint on.

    Leaves checkpoint-<step>/ (adapter or model, optimizer, scheduler, random states) every `save_steps` and at the
    end, log.jsonl and loss.png. Every one of `processes` calls this; the loss is known to the main one. Raises
    UserError naming the batch's rows when the loss is not finite.
    """
    processes = processes or Processes()
    done = checkpoints(folder)
    while done and damaged(done[-1]):
        done.pop()  # it is made again from the one before
    if processes.main:
        for path in our_checkpoints(folder):
            if path not in done:
                shutil.rmtree(path)
    reached = (checkpoint_step(done[-1]) or 0) if done else 0
    heads = samples.samples.heads if isinstance(samples.samples, PackedSamples) else samples.samples
    step_size = recipe.batch_size * recipe.gradient_accumulation * processes.count
    sampler = GroupedSampler(heads, step_size, recipe.seed)
    pruned = None if recipe.pruning is None else _pruned(samples, sampler, recipe, recipe.pruning, processes)
    if pruned and done:
        pruned.restore(done[-1])
    trainer = _Trainer(
        model=model,
        args=training_arguments(folder, recipe, processes),
        train_dataset=samples,
        data_collator=samples.collate,
        optimizers=(make_optimizer(model, recipe), None),
    )
    trainer.sampler, trainer.beside = sampler, beside_the_lora(model)
    trainer.pruned, trainer.reached = pruned, reached
    if pruned:
        trainer.model_accepts_loss_kwargs = True  # the loss is made here, of the whole step
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    log = TrainingLog(folder, reached) if processes.main else None
    with Progress(title if processes.main else "", recipe.steps, reached, "steps") as progress:
        report = _Report(trainer, processes, progress, log, recipe.keep)
        trainer.add_callback(report)
        if not _finished(pruned, reached, recipe):  # else it was killed behind its last step: no more is to be made
            with finishing():
                trainer.train(resume_from_checkpoint=str(done[-1]) if done else None)
            reached = trainer.state.global_step
    if report.asked is not None and not _finished(pruned, reached, recipe):
        stop_as(report.asked)
    loss = float(log.entries[-1]["loss"]) if log else math.nan
    return Trained(loss, reached, pruned.passes(reached) if pruned else None)


def _pruned(
    samples: TrainingSamples, sampler: GroupedSampler, recipe: Recipe, pruning: InfoBatch, processes: Processes
) -> PrunedEpochs:
    assert isinstance(samples.samples, PackedSamples)
    return PrunedEpochs(
        pruning,
        lengths=sampler.lengths,
        images=sampler.images,
        targets=samples.samples.target_tokens(),
        full_steps=recipe.steps,
        batch_size=recipe.batch_size,
        gradient_accumulation=recipe.gradient_accumulation,
        seed=recipe.seed,
        processes=processes,
    )


def _finished(pruned: PrunedEpochs | None, step: int, recipe: Recipe) -> bool:
    return pruned.finished(step) if pruned else step >= recipe.steps


class _Trainer(Trainer):  # type: ignore[misc]
    sampler: GroupedSampler
    beside: list[nn.Parameter]
    pruned: PrunedEpochs | None = None
    reached = 0  # the step it goes on from
    seen_samples = seen_tokens = 0  # by this process since the last line of the log
    factor_sum: Any = 0.0  # the same, with pruning
    factored_losses: Any = 0.0

    def get_train_dataloader(self) -> Any:
        if self.pruned:
            return _PrunedLoader(self, self.pruned)
        order = {"batch_size": self.args.per_device_train_batch_size, "sampler": self.sampler}
        return self.accelerator.prepare(self.make_loader(**order))

    def make_loader(self, **order: Any) -> DataLoader[Any]:
        return DataLoader(
            self.train_dataset,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            worker_init_fn=one_tokenizer_thread,
            pin_memory=self.args.dataloader_pin_memory,
            **order,
        )

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.args.should_save:
            begin_checkpoint(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if pruned := self.pruned:
            warmup_steps = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler: Any = LambdaLR(self.optimizer, lambda step: pruned.rate(step, warmup_steps))
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        rows = inputs.pop("rows")
        self.seen_samples += len(rows)
        self.seen_tokens = self.seen_tokens + inputs["attention_mask"].sum()
        if self.pruned:
            loss = self._pruned_loss(self.pruned, model, inputs)
        else:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            path = self.train_dataset.source.records.path
            raise UserError(
                f"{path} rows {', '.join(map(str, rows.tolist()))}: the loss of this training batch is not a finite "
                "number; check the weights for NaN"
            )
        # Text alone leaves the projector out: its gradient is then zero, as in LLaVA's own code, and not missing,
        # which other processes that have images would wait for.
        return loss + 0.0 * sum(parameter.sum() for parameter in self.beside)

    def _pruned_loss(self, pruned: PrunedEpochs, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        labels, positions, factors = (inputs.pop(name) for name in ("labels", "positions", "factors"))
        losses = sample_losses(model(**inputs).logits, labels)
        pruned.saw(positions, factors, losses)
        loss: Tensor = (losses * factors).sum()
        self.factor_sum = self.factor_sum + factors.sum()
        self.factored_losses = self.factored_losses + loss.detach()
        return loss * pruned.processes.count  # over which the gradients are averaged


class _PrunedLoader:
    """What the Trainer takes for one long epoch; its length is an upper bound."""

    def __init__(self, trainer: _Trainer, pruned: PrunedEpochs) -> None:
        self.trainer, self.pruned, self.dataset = trainer, pruned, trainer.train_dataset

    def __len__(self) -> int:
        return self.pruned.full_steps * self.pruned.gradient_accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # A generator of its own: a loader draws a number from it, and dropout's must not depend on how often one began.
        generator = torch.Generator()

        def make_loader(batches: list[list[int]]) -> DataLoader[Any]:
            return self.trainer.make_loader(batch_sampler=batches, generator=generator)

        return self.pruned.batches(self.trainer.reached, make_loader)


class _Report(TrainerCallback):  # type: ignore[misc]
    """Progress, the log, whole checkpoints; in every process, since some of it needs all of them."""

    def __init__(
        self, trainer: _Trainer, processes: Processes, progress: Progress, log: TrainingLog | None, keep: int | None
    ) -> None:
        self.trainer, self.processes, self.progress, self.log, self.keep = trainer, processes, progress, log, keep
        self.since = time.monotonic()
        self.asked: str | None = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.pruned:
            return
        # accelerate does not reach a sampler of several processes in an epoch that is begun in its middle.
        steps_per_epoch = -(-len(self.trainer.sampler) // self.trainer.sampler.step_size)
        self.trainer.sampler.set_epoch(state.global_step // steps_per_epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.advance(1)
        pruned = self.trainer.pruned
        if pruned:
            self.progress.expect(pruned.most_steps())
        if pruned.finished(state.global_step) if pruned else state.global_step == state.max_steps:
            control.should_log = True  # the last line is of the end, whatever the interval
            control.should_save = control.should_training_stop = True
        elif request := next((each for each in self.processes.gather(asked()) if each), None):
            # A checkpoint on the way out: nothing of the steps since the last one is lost.
            self.asked = request
            control.should_log = control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        trainer, pruned = self.trainer, self.trainer.pruned
        sums = (trainer.seen_samples, trainer.seen_tokens, trainer.factored_losses, trainer.factor_sum)
        gathered = self.processes.gather(tuple(float(each) for each in sums))
        samples, tokens, losses, factors = (sum(each) for each in zip(*gathered, strict=True))
        seconds, self.since = time.monotonic() - self.since, time.monotonic()
        trainer.seen_samples = trainer.seen_tokens = 0
        trainer.factored_losses = trainer.factor_sum = 0.0
        if self.log is not None:
            entry = {"step": state.global_step} | {key: logs[key] for key in ("loss", "learning_rate", "epoch")}
            if pruned:
                entry["loss"] = losses / factors
                entry["epoch"] = pruned.full_step(state.global_step) / pruned.full_epoch_steps
            entry["samples_per_second"] = round(samples / seconds, 3)
            entry["tokens_per_second"] = round(tokens / seconds, 1)
            if pruned:
                entry["sample_passes"] = pruned.passes(state.global_step).as_json()
            self.log.add(entry)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.processes.gather(None)  # each has written its random state
        if self.trainer.pruned:
            self.trainer.pruned.collect_scores()
        if self.log is None:
            return
        folder = Path(args.output_dir)
        checkpoint = folder / f"checkpoint-{state.global_step}"
        if self.trainer.pruned:
            self.trainer.pruned.save(checkpoint)
        for path in checkpoint.glob("*.safetensors"):  # made for the owner alone
            path.chmod((checkpoint / "trainer_state.json").stat().st_mode)
        for path in [*checkpoint.iterdir(), checkpoint]:
            flush(path)
        finish_checkpoint(checkpoint)
        for path in checkpoints(folder)[: -self.keep] if self.keep else []:
            (path / MARKER).unlink()
            shutil.rmtree(path)
        self.log.plot()
