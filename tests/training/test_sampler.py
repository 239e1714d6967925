"""The order of the training samples: whole steps of one modality, neighbours in length together, reproducible."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from icons.data.samples import Sample
from icons.data.tokens import Tokens
from icons.training.packed import PackedSamples
from icons.training.sampler import GroupedSampler

BATCH, ACCUMULATION, PROCESSES = 4, 2, 2
STEP = BATCH * ACCUMULATION * PROCESSES


def make_samples(images: int = 700, texts: int = 300) -> list[Sample]:
    """Lengths as in LLaVA's data: images at 576 tokens and more, texts from a few to many."""
    random = np.random.default_rng(0)
    lengths = [*(576 + random.geometric(0.01, images)), *random.geometric(0.003, texts)]
    order = random.permutation(images + texts)
    return [
        Sample(row, f"row {row}", Tokens([1], [1]), (Path("x.png"),) if place < images else (), int(lengths[place]))
        for row, place in enumerate(order)
    ]


def padded_tokens(samples: list[Sample], batches: list[list[int]]) -> int:
    return sum(len(batch) * max(samples[row].length for row in batch) for batch in batches)


def test_every_sample_comes_once_and_a_step_holds_one_modality() -> None:
    samples = make_samples()
    order = list(GroupedSampler(samples, STEP, seed=0))
    assert sorted(order) == list(range(len(samples)))
    steps = [order[start : start + STEP] for start in range(0, len(order), STEP)]
    kinds = [{not samples[row].images for row in step} for step in steps]
    mixed = [index for index, kind in enumerate(kinds) if len(kind) == 2]
    assert all(index >= len(steps) - 2 for index in mixed), "only what fills no step of its own stands together"
    assert Counter(len(kind) for kind in kinds[:-2]) == {1: len(steps) - 2}


def test_less_padding_than_random_batches_and_no_order_by_length() -> None:
    samples = make_samples()
    grouped = list(BatchSampler(GroupedSampler(samples, STEP, seed=0), BATCH, False))
    random = list(BatchSampler(RandomSampler(samples), BATCH, False))
    real = sum(sample.length for sample in samples)
    waste, random_waste = (padded_tokens(samples, batches) / real - 1 for batches in (grouped, random))
    assert waste < 0.05
    assert random_waste > 0.3
    longest = [max(samples[row].length for row in batch) for batch in grouped]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.3


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    samples = make_samples()
    sampler = GroupedSampler(samples, STEP, seed=0)
    first = list(sampler)
    assert first == list(sampler) == list(GroupedSampler(samples, STEP, seed=0))
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    assert second == list(sampler)
    assert first != list(GroupedSampler(samples, STEP, seed=1))
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_processes_share_an_epoch_step_by_step() -> None:
    """accelerate's own sharding: together the processes see each step's samples, and every sample."""
    samples = make_samples()
    order = list(GroupedSampler(samples, STEP, seed=3))
    shards = [
        list(BatchSamplerShard(BatchSampler(GroupedSampler(samples, STEP, seed=3), BATCH, False), PROCESSES, rank))
        for rank in range(PROCESSES)
    ]
    assert len({len(shard) for shard in shards}) == 1
    for step in range(len(samples) // STEP):
        micro = slice(step * ACCUMULATION, (step + 1) * ACCUMULATION)
        seen = [row for shard in shards for batch in shard[micro] for row in batch]
        assert sorted(seen) == sorted(order[step * STEP : (step + 1) * STEP])
    assert {row for shard in shards for batch in shard for row in batch} == set(range(len(samples)))


def test_an_epoch_begun_in_its_middle_goes_on_in_the_same_order() -> None:
    samples = make_samples(50, 30)
    sampler = GroupedSampler(samples, BATCH, seed=0)
    sampler.set_epoch(2)
    loader = DataLoader(range(len(samples)), batch_size=BATCH, sampler=sampler, collate_fn=list)  # type: ignore[arg-type]
    assert list(skip_first_batches(loader, 7)) == list(loader)[7:]


@pytest.mark.parametrize(("images", "texts"), [(1, 0), (0, 3), (5, 5), (STEP, 0)])
def test_sets_smaller_than_a_step(images: int, texts: int) -> None:
    order = list(GroupedSampler(make_samples(images, texts), STEP, seed=0))
    assert sorted(order) == list(range(images + texts))


def test_packed_samples_come_back_as_they_were() -> None:
    random = np.random.default_rng(0)
    samples = []
    for row in range(10):
        ids = random.integers(0, 32000, random.integers(1, 50)).tolist()
        labels = [token if token % 2 else -100 for token in ids]
        samples.append(Sample(row, f"row {row}", Tokens(ids, labels), (), len(ids)))
    packed = PackedSamples(iter([samples[:3], [], samples[3:]]))
    assert list(packed) == samples
    assert packed[2:5] == samples[2:5]
    assert packed[-1] == samples[-1]
    assert [head.length for head in packed.heads] == [sample.length for sample in samples]
    assert list(PackedSamples(iter([]))) == []
