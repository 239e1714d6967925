"""All devices of a workstation: one process each, every one taking the next missing chunk.

A worker that dies loses only its own chunk, which goes back to the queue; finished shards of it are kept on disk.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import cast

from icons.config import Config
from icons.data.sets import open_records
from icons.errors import UserError
from icons.parent import end_with_the_parent
from icons.progress import Progress, say
from icons.store.fingerprint import Fingerprint

ATTEMPTS = 3  # how often a chunk may be begun, and workers die in a row, before the run gives up


@dataclass
class Worker:
    """A process bound to one device; `chunk` is what it is computing (None: idle)."""

    place: str
    process: SpawnProcess
    pipe: Connection
    chunk: int | None = None


@dataclass
class Queue:
    """Chunks still to be given out, how often each was begun, deaths since the last success, what went wrong."""

    waiting: deque[int]
    begun: dict[int, int] = field(default_factory=dict)
    deaths: int = 0
    failures: list[str] = field(default_factory=list)

    def give_up(self, reason: str) -> None:
        """No further chunk is begun; those under way are finished."""
        self.failures.append(reason)
        self.waiting.clear()


def devices(config: Config) -> list[str]:
    """The devices that work is spread over: every visible GPU with `model.device: auto`, else the one named.

    `gradients.workers` asks for a number of its own; on a CPU that means as many processes. With `model.device_map`
    one process has all GPUs.
    """
    import torch

    if config.model.device_map is not None:
        return [config.model.device]
    device, asked = config.model.device, config.gradients.workers
    gpus = torch.cuda.device_count() if device == "auto" else 0
    if gpus:
        return [f"cuda:{index}" for index in range(gpus)][: asked or gpus]
    return [device] * (asked or 1)


def in_workers(
    config: Config, checkpoint: int | str, fingerprint: Fingerprint, chunks: list[int], places: list[str]
) -> None:
    """Computes chunks in one process per place; what they are made of was read from the files by the caller.

    A mistake of the user's ends the run when the chunks under way are finished: raises UserError with its message, and
    also when workers keep dying.
    """
    free_device_memory()
    queue = Queue(deque(chunks))
    start = partial(_start, config, checkpoint, fingerprint)
    workers = [start(place) for place in places]
    try:
        with Progress(f"train-grads on {len(places)} devices", len(chunks), 0, "chunks") as progress:
            for worker in workers:
                _give(worker, queue)
            while busy := [worker for worker in workers if worker.chunk is not None]:
                by_pipe = {worker.pipe: worker for worker in busy}
                for ready in wait(list(by_pipe)):
                    worker = by_pipe[cast(Connection, ready)]
                    if _hear(worker, queue):
                        progress.advance(1)
                    if not worker.process.is_alive() and queue.waiting:
                        place = workers.index(worker)
                        workers[place] = worker = start(worker.place)
                    _give(worker, queue)
    except BaseException:
        for worker in workers:
            worker.process.kill()
        raise
    finally:
        for worker in workers:
            worker.pipe.close()
            worker.process.join()
    if queue.failures:
        raise UserError(queue.failures[0])


def free_device_memory() -> None:
    """Gives back what this process holds of a GPU: the workers need it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _start(config: Config, checkpoint: int | str, fingerprint: Fingerprint, place: str) -> Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(config, checkpoint, fingerprint, place, theirs), daemon=False)
    process.start()
    theirs.close()
    return Worker(place, process, ours)


def _give(worker: Worker, queue: Queue) -> None:
    if queue.waiting:
        worker.chunk = queue.waiting.popleft()
        queue.begun[worker.chunk] = queue.begun.get(worker.chunk, 0) + 1
        with suppress(OSError):  # it has just died: the end of its pipe is heard next
            worker.pipe.send(worker.chunk)


def _hear(worker: Worker, queue: Queue) -> bool:
    """Takes a worker's answer (or its death); True when its chunk is complete."""
    chunk, worker.chunk = worker.chunk, None
    assert chunk is not None
    try:
        problem: str | None = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        queue.deaths += 1
        what = f"the worker on {worker.place} died (exit code {worker.process.exitcode})"
        if queue.begun[chunk] < ATTEMPTS and queue.deaths < ATTEMPTS:
            say(f"{what}; chunk {chunk} is taken again")
            queue.waiting.append(chunk)
        else:
            queue.give_up(f"chunk {chunk}: {what} after {queue.deaths} deaths in a row; its own message stands above")
        return False
    queue.deaths = 0
    if problem is not None:
        say(f"chunk {chunk}: {problem}; the chunks under way are finished, no other is begun")
        queue.give_up(problem)
    return problem is None


def _work(config: Config, checkpoint: int | str, fingerprint: Fingerprint, place: str, pipe: Connection) -> None:
    """A worker's life: takes chunk numbers from the pipe until it closes, answers None or what is wrong.

    Its device comes first: what a library puts on the first GPU would lie there once for every worker.
    """
    from icons.models.place import take_device

    end_with_the_parent()
    take_device(place)
    from icons.stages.specialist.chunks import compute_chunk
    from icons.stages.specialist.extractor import Extractor
    from icons.stages.specialist.fingerprints import require_unchanged, train_fingerprint

    extractor = None
    while True:
        try:
            chunk = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if extractor is None:
                model = config.model.model_copy(update={"device": place})
                records = open_records(config.train.parts)
                require_unchanged(train_fingerprint(config, checkpoint, records), fingerprint)
                extractor = Extractor(config.model_copy(update={"model": model}), checkpoint, "train", fingerprint)
            compute_chunk(extractor, chunk, records, fingerprint, quiet=True)
            pipe.send(None)
        except UserError as error:
            pipe.send(str(error))
        except KeyboardInterrupt:
            return
        except Exception:
            traceback.print_exc(file=sys.stderr)
            sys.exit(1)
