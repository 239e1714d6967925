"""What a batch makes the host wait for, on a GPU that is there on paper alone. Not measured on a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icons.config import ModelConfig
from icons.config_file import load_config
from icons.data.samples import DataSource
from icons.data.sets import open_records
from icons.models.adapters import attach_fresh_lora
from icons.models.loading import load_base
from icons.models.vlm import VisionLanguageModel
from icons.stages.specialist.collect import _shard
from icons.stages.specialist.extractor import Extractor
from tests.conftest import Project
from tests.gradients.paper_gpu import DEVICE, PaperGpu, on_paper

ALLOWED = {
    "_local_scalar_dense": (
        "1 a batch: transformers asks whether sequences are packed. It comes behind the vision tower and before the "
        "first decoder layer, while the batch before is at work; the host then queues faster than the device computes."
    ),
}
"""Operation that the host waits for -> how often and why it may."""


@pytest.fixture
def model(tiny_model: Path) -> VisionLanguageModel:
    config = ModelConfig(base=str(tiny_model), dtype="bfloat16", device="cpu")
    model = attach_fresh_lora(load_base(config), config.lora)
    model.peft.requires_grad_(False).eval()
    on_paper(model.peft)
    return replace(model, device=DEVICE)


def test_a_batch_waits_for_what_is_listed_alone_and_is_read_behind_the_next(
    model: VisionLanguageModel, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.raw["gradients"] |= {"num_workers": 0, "dim": 64}
    project.raw["model"]["dtype"] = "bfloat16"
    project.save()
    extractor = Extractor(load_config(project.config), "final", "train", {})
    extractor.model, extractor.tokens_per_batch = model, 300  # type: ignore[misc]
    source = DataSource(open_records(project.root / "data/train.json", project.root / "data/images"), model.inputs)
    samples, _ = source.samples(range(12))
    gpu = PaperGpu()
    gpu.stands_in(monkeypatch)
    with gpu:
        _shard(extractor, source, 0, 12, samples, [], lambda count: None)  # the first time sends the sketch's offsets
        gpu.waits.clear()
        gpu.events.clear()
        tensors = _shard(extractor, source, 0, 12, samples, [], lambda count: None)
    assert tensors["valid"].all()
    batches = len(gpu.events)
    assert batches >= 3
    assert gpu.waits == {"_local_scalar_dense": batches}
    assert gpu.waits.keys() == ALLOWED.keys()
    for event, following in zip(gpu.events[:-1], gpu.events[1:], strict=True):
        assert event.at < following.at == event.waited
    assert gpu.copies["to the host"] >= 4 * batches


def test_the_paper_sees_what_waits() -> None:
    numbers = torch.ones(4, device=DEVICE)
    gpu = PaperGpu()
    with gpu:
        numbers.cpu()
        float(numbers.sum())
        numbers[torch.zeros(4, dtype=torch.long)]
        torch.zeros(4).to(DEVICE)
        torch.zeros(4).to(DEVICE, non_blocking=True)  # not from page-locked memory
    assert gpu.waits == {
        "to the host": 1,
        "_local_scalar_dense": 1,
        "index with a tensor of the host": 1,
        "to the device": 2,
    }
    assert not gpu.copies
