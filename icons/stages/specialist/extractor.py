"""What is computed of each batch: sketches, exact scores or a task's mean unit gradient, by the config's choice."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from icons.config import Config
from icons.cores import cores
from icons.data.batches import Batch
from icons.errors import UserError
from icons.gradients.lora import LoraPair
from icons.gradients.memory import fewer_tokens, token_bytes, tokens_that_fit
from icons.gradients.operands import triton_problem
from icons.gradients.projection import Projector, make_projector
from icons.gradients.rows import Rows, add_unit_gradients, exact_rows, projected_rows
from icons.gradients.types import Transform, adam, sgd, sign
from icons.models.adapters import adam_moments, attach_adapter
from icons.models.counted import counted_lora
from icons.models.loading import load_base
from icons.models.place import computing
from icons.models.probe import require_gradients
from icons.models.shape import shapes_by_device
from icons.models.vlm import VisionLanguageModel
from icons.progress import say
from icons.stages.specialist.directions import DIRECTION, load_directions
from icons.stages.specialist.fingerprints import feature_fingerprint, require_unchanged
from icons.store.files import Array
from icons.store.fingerprint import Fingerprint
from icons.store.layout import RunFolder

CPU_TOKENS_PER_BATCH = 2048
Side = Literal["train", "val"]


class Extractor:
    """The model with one checkpoint's adapter, loaded when the first batch needs it.

    A batch that does not fit in memory is split and the budget of padded tokens lowered for all that follow; no
    sample is shortened for it.

    `made_of` is what was read of the model and adapter before they were loaded. `prepare` raises UserError when they
    are others by then.
    """

    def __init__(self, config: Config, checkpoint: int | str, side: Side, made_of: Fingerprint) -> None:
        self.config, self.checkpoint, self.side, self.made_of = config, checkpoint, side, made_of
        self._prepared = False
        self._sums: dict[str, Tensor] = {}

    @cached_property
    def model(self) -> VisionLanguageModel:
        return attach_adapter(load_base(self.config.model), self._adapter)

    @property
    def _adapter(self) -> Path:
        return RunFolder(self.config.output_dir).adapter(self.checkpoint, self.config.model.adapter)

    @cached_property
    def tokens_per_batch(self) -> int:
        """Padded tokens at once: as the config says, or on a GPU as many as its memory takes once all is loaded.

        Of several GPUs that a model lies on, the one that takes the fewest decides.
        """
        if self.config.gradients.tokens_per_batch is not None:
            return self.config.gradients.tokens_per_batch
        if self.model.device.type == "cpu":
            return CPU_TOKENS_PER_BATCH
        self.prepare()
        return min(
            tokens_that_fit(free_bytes(device) - self._sum_bytes(device), token_bytes(shape))
            for device, shape in shapes_by_device(self.model, self.pairs, self.config.gradients.layers).items()
        )

    @cached_property
    def image_processes(self) -> int:
        """How many processes decode images ahead of the device."""
        asked = self.config.gradients.num_workers
        if asked is not None:
            return asked
        if self.model.device.type == "cpu":
            return 0
        others = 1 if self.config.model.device_map else torch.cuda.device_count()
        return min(8, max(1, cores() // others - 1))

    def _sum_bytes(self, device: torch.device) -> int:
        """What a task's exact mean gradient will take beside the model: the batch's sum and the task's, in float32."""
        if not self.config.gradients.exact or self.side == "train":
            return 0
        return 2 * 4 * sum(w.numel() for pair in self.pairs if pair.device == device for _, w in pair.tensors)

    @cached_property
    def pairs(self) -> list[LoraPair]:
        return self.model.lora_pairs(self.config.gradients.layers)

    @cached_property
    def transform(self) -> Transform:
        kind = self.config.gradients.type
        if kind == "adam" and self.side == "train":
            moments, *settings = adam_moments(self.model, self._adapter)
            return adam({name: moments[name] for pair in self.pairs for name, _ in pair.tensors}, *settings)
        return sign if kind == "sign" else sgd

    @cached_property
    def projector(self) -> Projector:
        settings = self.config.gradients
        return make_projector(settings.projection, settings.dim, settings.seed)

    @cached_property
    def directions(self) -> dict[str, Tensor]:
        dtype = getattr(torch, self.config.model.dtype)
        devices = {name: weight.device for pair in self.pairs for name, weight in pair.tensors}
        return load_directions(self.config, self.checkpoint, devices, dtype)

    def prepare(self) -> None:
        """Loads all that the first batch would: running out of memory here is not the batch's doing."""
        if self._prepared:
            return
        _ = self.model, [(pair.siblings.stacked, pair.scaled_b) for pair in self.pairs], self.transform
        lora = counted_lora(self.config, self._adapter)
        if lora.layers:  # which the warm-up has not tried
            require_gradients(self.model, self.config.gradients.layers, "use gradients.layers: all")
        if not self.config.gradients.exact:
            _ = self.projector
        elif self.side == "train":
            _ = self.directions
        require_unchanged(feature_fingerprint(self.config, self.checkpoint), self.made_of)
        self._prepared = True
        if self.model.device.type == "cuda" and (problem := triton_problem()):
            say(f"Triton's kernels cannot be used ({problem}): plain operations take their place, which are slower")
        more = [f"{self.tokens_per_batch:,} tokens a batch", f"{self.image_processes} image processes"]
        say(f"{self.side}-grads {self.checkpoint}: {computing(self.model, *lora.phrases[1:], *more)}")

    def empty_shard(self, start: int, stop: int) -> dict[str, Array]:
        """A shard's arrays, every row invalid until it is filled."""
        count = stop - start
        values: dict[str, Array] = {}
        if not self.config.gradients.exact:
            values = {"grads": np.zeros((count, self.config.gradients.dim), np.float16)}
        elif self.side == "train":
            values = {"scores": np.zeros((count, len(self.config.tasks)), np.float32)}
        return values | {
            "rows": np.arange(start, stop, dtype=np.int64),
            "norms": np.zeros(count, np.float32),
            "losses": np.zeros(count, np.float32),
            "target_tokens": np.zeros(count, np.int32),
            "valid": np.zeros(count, np.bool_),
        }

    def fill(self, tensors: dict[str, Array], at: Any, rows: Rows) -> None:
        """Stores a batch's rows at positions `at`; waits for the device where they are still there."""
        rows = rows.to_host(self._stored)()
        for name in ("grads", "scores"):
            if name in tensors:
                tensors[name][at] = rows.values_BD.numpy()
        tensors["norms"][at] = rows.norms_B.numpy()
        tensors["losses"][at] = rows.losses.mean_B.numpy()
        tensors["target_tokens"][at] = rows.losses.tokens_B.numpy()
        tensors["valid"][at] = True

    def leaving(self, rows: Rows) -> Callable[[], Rows]:
        """Sends rows to the host as `fill` takes them; nothing waits until the result is called."""
        return rows.to_host(self._stored)

    @property
    def _stored(self) -> torch.dtype:
        return torch.float32 if self.config.gradients.exact else torch.float16

    def take_sums(self) -> dict[str, Array]:
        """With exact influence, a task's summed unit gradients since the last call, one array a LoRA tensor."""
        sums, self._sums = self._sums, {}
        return {DIRECTION + name: total.cpu().numpy() for name, total in sums.items()}

    def rows(self, batch: Batch) -> Iterator[tuple[Batch, Rows]]:
        """The batch's rows, in parts when it does not fit in memory.

        Raises UserError when a single sample does not fit.
        """
        count = len(batch.rows)
        if count > 1 and batch.padded_tokens > self.tokens_per_batch:
            yield from self._halves(batch)
            return
        rows = self._attempt(batch)
        if rows is not None:
            yield batch, rows
            return
        if count == 1:
            raise UserError(
                f"row {batch.rows[0]}: one sample of {batch.padded_tokens} tokens does not fit in the memory of "
                f"{self.model.device}; lower model.max_length or use a device with more memory"
            )
        self.tokens_per_batch = fewer_tokens(batch.padded_tokens, max(batch.lengths))
        say(f"out of memory with {batch.padded_tokens} tokens in a batch: going on with {self.tokens_per_batch}")
        yield from self._halves(batch)

    def _halves(self, batch: Batch) -> Iterator[tuple[Batch, Rows]]:
        middle = (len(batch.rows) + 1) // 2
        yield from self.rows(batch.part(0, middle))
        yield from self.rows(batch.part(middle, len(batch.rows)))

    def _attempt(self, batch: Batch) -> Rows | None:
        """The rows, or None when memory ran out; nothing of the attempt is kept then."""
        try:
            return self._compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        # Out of the handler, where the error still held the batch's tensors; its frames may refer to each other.
        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _compute(self, batch: Batch) -> Rows:
        forward = self.model.forward_pass(self.pairs, batch)
        if not self.config.gradients.exact:
            return projected_rows(forward, self.projector, self.transform)
        if self.side == "train":
            return exact_rows(forward, self.directions, self.transform)
        sums: dict[str, Tensor] = {}
        rows = add_unit_gradients(forward, self.transform, sums)
        for name, total in sums.items():
            self._sums[name] = self._sums[name].add_(total) if name in self._sums else total
        return rows


def free_bytes(device: torch.device) -> int:
    """What can still be allocated on a GPU: what no process has, and what torch holds without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _out_of_memory(error: BaseException) -> bool:
    # The last is all that oneDNN says on a CPU.
    signs = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "ALLOC_FAILED",
        "could not create a primitive",
    )
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(sign in str(error) for sign in signs)
