"""The processes that train together, as `accelerate launch` and `torchrun` start them: one for each GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from icons.config import ModelConfig
from icons.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among `count`; the `main` one alone writes and speaks."""

    count: int = 1
    rank: int = 0
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Processes:
        names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
        if not all(os.environ.get(name, "").isdigit() for name in names):
            return cls()
        return cls(*(int(os.environ[name]) for name in names))

    @property
    def main(self) -> bool:
        return self.rank == 0

    def place(self, config: ModelConfig) -> ModelConfig:
        """The model's settings with this process's own device; a UserError when there is no such GPU."""
        import torch

        if config.device.startswith("cuda:") and (self.count > 1 or config.device != "cuda:0"):
            raise UserError(
                f"model.device: {config.device} names one GPU, and training takes the visible ones; use auto, and "
                "CUDA_VISIBLE_DEVICES to choose among them"
            )
        if self.count == 1 or config.device == "cpu":
            return config
        gpus = 0 if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" else torch.cuda.device_count()
        if gpus == 0 and config.device == "auto":
            return config.model_copy(update={"device": "cpu"})
        if self.local_rank >= gpus:
            raise UserError(f"{self.local_rank + 1} processes or more on this machine, which has {gpus} GPUs")
        return config.model_copy(update={"device": f"cuda:{self.local_rank}"})

    def meet(self, on_cpu: bool) -> None:
        """Waits for the others and connects to them."""
        if self.count > 1:
            from accelerate import PartialState

            # Reading 665,000 records and images takes longer than the usual ten minutes.
            PartialState(cpu=on_cpu, timeout=timedelta(hours=3))

    def part(self) -> None:
        """Ends the connection, so that the main process may go on alone."""
        if self.count > 1:
            from accelerate import PartialState

            state = PartialState()
            state.wait_for_everyone()  # gloo aborts the process whose peers are gone before it has ended
            state.destroy_process_group()

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.count == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns here; a UserError of any process is raised once, by the main one, and ends all."""
        if self.count == 1:
            return work()
        problem: str | None = None
        try:
            result = work()
        except UserError as error:
            problem = str(error)
        problems = [message for message in dict.fromkeys(self.gather(problem)) if message is not None]
        if problems:
            self.part()
            if self.main:
                raise UserError("\n".join(problems))
            sys.exit(2)
        return result
