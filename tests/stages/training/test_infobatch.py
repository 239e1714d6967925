"""InfoBatch: what it leaves out, that its gradient has no bias, kills, several processes, and what it reports."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icons.config import ModelConfig
from icons.data.samples import DataSource, Sample
from icons.data.sets import open_records
from icons.models.adapters import attach_fresh_lora
from icons.models.loading import load_base
from icons.store.files import read_sealed, read_tensors, write_sealed
from icons.training.infobatch import InfoBatch
from icons.training.packed import PackedSamples, pack_samples
from icons.training.processes import Processes
from icons.training.pruned import PrunedEpochs
from icons.training.sample_loss import sample_losses
from icons.training.sampler import GroupedSampler
from icons.training.samples import TrainingSamples
from tests.conftest import Project
from tests.stages.training.test_finetune import ROWS, adapter, finetuned, kill_both_when, log, two_processes

EPOCHS, RECORDS, STEP = 4, 45, 8
PRUNING = ["--set", "training.pruning=infobatch", "--set", "training.ratio=0.6"]


@pytest.fixture
def tuning(project: Project) -> Project:
    """45 rows in steps of 8, the last of 5; four epochs, of which the second and the third are pruned."""
    project.raw["model"]["lora"]["dropout"] = 0.0
    project.raw["finetune"] = {"epochs": EPOCHS, "batch_size": STEP, "learning_rate": 1.0e-3, "save_steps": 3}
    project.save()
    (project.root / "rows.json").write_text(json.dumps(ROWS[:RECORDS]))
    return project


def tune(project: Project, *options: object) -> str:
    outcome = project.icons("finetune", "--indices", project.root / "rows.json", *options)
    assert outcome.code == 0, outcome.err
    return outcome.out


def state(project: Project, name: str, step: int) -> dict[str, Any]:
    return read_tensors(finetuned(project, name) / f"checkpoint-{step}" / "infobatch.safetensors")


@pytest.mark.parametrize(
    ("epochs", "delta", "pruned"),
    [
        (1, 0.875, []),
        (2, 0.875, []),
        (2, 1.0, []),
        (3, 0.875, [1]),
        (8, 0.875, [1, 2, 3, 4, 5, 6]),
        (8, 0.5, [1, 2, 3]),
        (4, 1.0, [1, 2]),
        (10, 0.05, []),
        (100, 0.29, list(range(1, 29))),
    ],
)
def test_the_first_and_the_last_epochs_are_whole(epochs: int, delta: float, pruned: list[int]) -> None:
    assert list(InfoBatch(0.5, delta).pruned_epochs(epochs)) == pruned


def test_only_the_well_learned_are_left_out_and_the_others_of_them_count_for_more() -> None:
    lottery = random.Random(0)
    scores = [lottery.uniform(0, 3) for _ in range(4000)]
    for row in range(0, 4000, 10):
        scores[row] = float("nan")
    known = [score for score in scores if score == score]
    mean = sum(known) / len(known)
    weights = InfoBatch(0.3, 0.875).weights(np.array(scores, np.float32), epoch=3, seed=7).tolist()
    dropped = 0
    for score, weight in zip(scores, weights, strict=True):
        if score != score or score >= mean:
            assert weight == 1
        else:
            assert weight == 0 or weight == pytest.approx(1 / 0.7)
            dropped += weight == 0
    well_learned = sum(score < mean for score in known)
    assert 0.25 < dropped / well_learned < 0.35
    again = InfoBatch(0.3, 0.875).weights(np.array(scores, np.float32), epoch=3, seed=7).tolist()
    others = [
        InfoBatch(0.3, 0.875).weights(np.array(scores, np.float32), *which).tolist() for which in ((3, 8), (4, 7))
    ]
    assert again == weights
    assert weights not in others
    assert others[0] != others[1]


def test_without_scores_or_below_no_mean_all_are_kept() -> None:
    for scores in (np.full(9, np.nan, np.float32), np.full(9, 2, np.float32), np.zeros(0, np.float32)):
        assert (InfoBatch(0.9, 0.875).weights(scores, 1, 0) == 1).all()


class Alone(Processes):
    """One of several processes, whose losses the test makes known to it."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


def some_plan(processes: Processes, full_steps: int, accumulation: int = 2, records: int = 101) -> PrunedEpochs:
    """Steps of 3 x accumulation x processes of 101 records, a third of them without an image."""
    draw = np.random.default_rng(0)
    return PrunedEpochs(
        InfoBatch(0.5, 0.875),
        lengths=draw.integers(5, 600, records),
        images=draw.random(records) < 0.7,
        targets=draw.integers(1, 40, records),
        full_steps=full_steps,
        batch_size=3,
        gradient_accumulation=accumulation,
        seed=5,
        processes=processes,
    )


def run_plan(plan: PrunedEpochs, done: int = 0) -> list[list[tuple[list[int], np.ndarray[Any, Any]]]]:
    """Positions and factors of each batch, step by step; a sample's loss is its position."""
    steps: list[list[tuple[list[int], np.ndarray[Any, Any]]]] = []
    losses = torch.arange(len(plan.scores)).float()
    batches = plan.batches(done, lambda chosen: [{} for _ in chosen])
    for number, batch in enumerate(batches):
        if number % plan.gradient_accumulation == 0:
            steps.append([])
        steps[-1].append((batch["positions"].tolist(), batch["factors"].numpy()))
        everyone = torch.arange(len(plan.scores))
        plan.saw(everyone, torch.ones(len(everyone)), losses)
    return steps


@pytest.mark.parametrize(("count", "accumulation"), [(1, 1), (1, 2), (3, 2), (4, 4)])
def test_every_process_has_its_part_of_every_step(count: int, accumulation: int) -> None:
    """Together they train on what one process alone does, with the same factors, and have as many batches."""
    step_size = 3 * accumulation * count
    epoch_steps = -(-101 // step_size)
    full_steps = 4 * epoch_steps + 1  # the fifth epoch ends within
    plans = [some_plan(Alone(count, rank), full_steps, accumulation) for rank in range(count)]
    parts = [run_plan(plan) for plan in plans]
    assert len({len(part) for part in parts}) == 1
    assert all(len(step) == accumulation for part in parts for step in part)
    assert all(positions for part in parts for step in part for positions, _ in step)
    of_step: list[dict[int, float]] = []
    for step in zip(*parts, strict=True):
        found: dict[int, float] = {}
        for positions, factors in (batch for part in step for batch in part):
            for position, factor in zip(positions, factors, strict=True):
                if factor:
                    assert position not in found
                    found[position] = factor
        of_step.append(found)
    plan = plans[0]
    epochs = [sum(map(len, of_step[:epoch_steps]))]
    assert epochs == [101]
    assert plan.finished(len(of_step))
    passes = plan.passes(len(of_step))
    assert passes.done == sum(map(len, of_step))
    assert passes.full == 4 * 101 + min(step_size, 101)
    assert passes.saved > 20
    assert plan.full_step(len(of_step)) == full_steps
    assert plan.rate(len(of_step), 2) == 0
    progress = [plan.full_step(step) for step in range(len(of_step) + 1)]
    assert progress == sorted(progress)
    assert progress[: epoch_steps + 1] == list(range(epoch_steps + 1))
    assert [kept < 101 for kept in plan.kept] == [False, True, True, True, True]
    assert plan.kept[4] == min(step_size, 101)
    for step in of_step[:epoch_steps]:
        targets = {position: plan.targets[position] for position in step}
        for position, factor in step.items():
            assert factor == pytest.approx(targets[position] / sum(targets.values()))


def test_a_plan_goes_on_from_any_step(tmp_path: Path) -> None:
    whole = run_plan(some_plan(Processes(), 60))
    for reached in (0, 5, 17, 18, 25, len(whole) - 1, len(whole)):
        first, again = some_plan(Processes(), 60), some_plan(Processes(), 60)
        batches = first.batches(0, lambda chosen: [{} for _ in chosen])
        everyone = torch.arange(101)
        for _ in range(2 * reached):
            next(batches)
            first.saw(everyone, torch.ones(101), everyone.float())
        first.collect_scores()
        first.save(tmp_path)
        again.restore(tmp_path)
        rest = run_plan(again, reached)
        assert len(rest) == len(whole) - reached
        for found, expected in zip(rest, whole[reached:], strict=True):
            for (positions, factors), (wanted, wanted_factors) in zip(found, expected, strict=True):
                assert positions == wanted
                assert np.array_equal(factors, wanted_factors)


@pytest.fixture(scope="module")
def tiny(drawn: Path, tiny_model: Path) -> tuple[Any, TrainingSamples]:
    """The tiny LLaVA with a LoRA whose B is not zero, and 20 records with and without an image."""
    torch.manual_seed(0)
    config = ModelConfig(base=str(tiny_model), dtype="float32", device="cpu", lora={"r": 2, "alpha": 4, "dropout": 0})
    model = load_base(config)
    model = attach_fresh_lora(model, config.lora, projector=None)
    for name, parameter in model.peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    source = DataSource(open_records(drawn / "data" / "train.json", drawn / "data" / "images"), model.inputs)
    samples, bad = pack_samples(source, range(40, 60), set(), "")
    assert not bad
    assert len({bool(sample.images) for sample in samples}) == 2
    return model, TrainingSamples(source, samples, model.token_type_arguments)


def trained_parameters(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.peft.parameters() if parameter.requires_grad]


def model_loss(model: Any, samples: TrainingSamples, positions: list[int]) -> torch.Tensor:
    """The model's own: the mean over the predicted tokens of all."""
    batch = samples.collate([samples[position] for position in positions])
    del batch["rows"]
    loss: torch.Tensor = model.peft(**batch).loss
    return loss


def test_the_loss_of_each_sample_is_that_of_the_model(tiny: tuple[Any, TrainingSamples]) -> None:
    model, samples = tiny
    batch = samples.collate([samples[position] for position in range(20) if samples[position].images])
    del batch["rows"]
    found = sample_losses(model.peft(**batch).logits, batch.pop("labels"))
    expected = [model_loss(model, samples, [position]) for position in range(20) if samples[position].images]
    torch.testing.assert_close(found, torch.stack(expected))
    assert isinstance(samples.samples, PackedSamples)
    counted = [sum(label != -100 for label in sample.tokens.labels[1:]) for sample in samples.samples]
    assert samples.samples.target_tokens().tolist() == counted


@dataclass(frozen=True)
class Drawn(InfoBatch):
    """One outcome of the draws, set by hand."""

    dropped: tuple[int, ...] = ()
    well_learned: tuple[int, ...] = ()

    def weights(self, scores_N: Any, epoch: int, seed: int) -> Any:
        weights = super().weights(scores_N, epoch, seed)
        assert np.flatnonzero(weights != 1).tolist() == list(self.well_learned)
        weights[list(self.well_learned)] = 1 / (1 - self.ratio)
        weights[list(self.dropped)] = 0
        return weights


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_epochs_gradient_is_that_of_all_samples_in_expectation(
    tiny: tuple[Any, TrainingSamples], accumulation: int
) -> None:
    """Every outcome of the draws with its probability, against the epoch that the Trainer makes without pruning."""
    model, samples = tiny
    parameters, epoch, seed, ratio, size = trained_parameters(model), 1, 3, 0.4, 8
    sampler = GroupedSampler([samples[position] for position in range(20)], size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    for parameter in parameters:
        parameter.grad = None
    for first in range(0, 20, size):
        model_loss(model, samples, order[first : first + size]).backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])

    well_learned = (2, 7, 11)
    scores = np.full(20, 2.0, np.float32)
    scores[list(well_learned)] = 0.5
    assert isinstance(samples.samples, PackedSamples)
    mean, biased = torch.zeros_like(expected), torch.zeros_like(expected)
    for outcome in product((False, True), repeat=3):
        dropped = tuple(position for position, drop in zip(well_learned, outcome, strict=True) if drop)
        plan = PrunedEpochs(
            Drawn(ratio, 0.875, dropped, well_learned),
            lengths=sampler.lengths,
            images=sampler.images,
            targets=samples.samples.target_tokens(),
            full_steps=12,
            batch_size=size // accumulation,
            gradient_accumulation=accumulation,
            seed=seed,
            processes=Processes(),
        )
        plan.kept, plan.scores = [20], scores
        for parameter in parameters:
            parameter.grad = None
        passes = 0
        for batch in plan.batches(3, lambda chosen: (samples.collate([samples[i] for i in each]) for each in chosen)):
            labels, factors, positions = (batch.pop(name) for name in ("labels", "factors", "positions"))
            assert batch.pop("rows").tolist() == [samples[position].row for position in positions]
            passes += int((factors != 0).sum())
            (sample_losses(model.peft(**batch).logits, labels) * factors).sum().backward()
            if passes == plan.kept[1]:
                break
        assert passes == 20 - len(dropped)
        gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        mean += ratio ** len(dropped) * (1 - ratio) ** (3 - len(dropped)) * gradient
        biased = gradient if len(dropped) == 3 else biased
    assert torch.linalg.vector_norm(mean - expected) < 1e-5 * torch.linalg.vector_norm(expected)
    assert torch.linalg.vector_norm(biased - expected) > 1e-2 * torch.linalg.vector_norm(expected)


def test_what_is_reported_is_what_was_trained_on(tuning: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a learning rate of next to nothing, so that losses stay: those left out are the ones below the mean."""
    batches: list[list[int]] = []
    collate = TrainingSamples.collate

    def noted(samples: TrainingSamples, chosen: list[Sample]) -> dict[str, torch.Tensor]:
        batches.append([sample.row for sample in chosen])
        return collate(samples, chosen)

    monkeypatch.setattr(TrainingSamples, "collate", noted)
    fixed = ["--set", "finetune.learning_rate=1e-12", "--set", "finetune.projector_learning_rate=null"]
    out = tune(tuning, *PRUNING, *fixed)
    rows = ROWS[:RECORDS]
    epochs: list[list[int]] = [[]]
    for batch in batches:
        if len(epochs[-1]) + len(batch) > RECORDS or set(batch) & set(epochs[-1]):
            epochs.append([])
        epochs[-1] += batch
    assert len(epochs) == EPOCHS
    assert sorted(epochs[0]) == sorted(epochs[-1]) == rows
    losses = state(tuning, "rows", len(batches))["scores"]
    well_learned = {row for row, loss in zip(rows, losses, strict=True) if loss < losses.mean(dtype=np.float64)}
    left_out = [set(rows) - set(epoch) for epoch in epochs[1:-1]]
    assert all(len(part) > 5 and part <= well_learned for part in left_out)
    assert left_out[0] != left_out[1]

    done, full = sum(map(len, batches)), EPOCHS * RECORDS
    saved = {"done": done, "full": full, "saved": full - done}
    manifest = read_sealed(finetuned(tuning, "rows") / "manifest.json", "")
    assert manifest["sample_passes"] == saved
    assert manifest["steps"] == len(batches) < EPOCHS * 6
    share = f"{100 * (full - done) / full:.1f}%"
    assert f"{len(batches)} steps on 45 records, {full - done} of {full} sample-passes saved ({share}), loss" in out
    lines = log(tuning, "rows")
    assert lines[-1]["sample_passes"] == saved
    assert lines[-1]["epoch"] == EPOCHS
    for line in lines:
        assert line["sample_passes"]["done"] == sum(map(len, batches[: line["step"]]))

    one = load_base(ModelConfig(base=tuning.raw["model"]["base"], dtype="float32", device="cpu"))
    source = DataSource(open_records(tuning.root / "data" / "train.json", tuning.root / "data" / "images"), one.inputs)
    for position in (0, 20, 44):
        (sample,), _ = source.samples([rows[position]])
        batch = collate(TrainingSamples(source, [sample]), [sample])
        del batch["rows"]
        with torch.no_grad():
            assert losses[position] == pytest.approx(float(one.base(**batch).loss), rel=1e-4)


def test_whole_epochs_are_trained_as_without_pruning(tuning: Project) -> None:
    """The first of three epochs: losses and learning rates of its steps, and the folder of a run without pruning."""
    tune(tuning, "--name", "plain", "--set", "finetune.epochs=3")
    tune(tuning, "--name", "pruned", "--set", "finetune.epochs=3", *PRUNING)
    plain, pruned = log(tuning, "plain"), log(tuning, "pruned")
    for key in ("step", "learning_rate", "epoch"):
        assert [line[key] for line in pruned[:6]] == [line[key] for line in plain[:6]]
    np.testing.assert_allclose([line["loss"] for line in pruned[:6]], [line["loss"] for line in plain[:6]], rtol=1e-5)
    assert pruned[-1]["learning_rate"] == plain[-1]["learning_rate"]
    assert pruned[-1]["step"] < plain[-1]["step"]
    fingerprint = read_sealed(finetuned(tuning, "plain") / "manifest.json", "")["fingerprint"]
    assert not [key for key in fingerprint if key.startswith("pruning")], "folders of earlier versions stay valid"
    options = ["--indices", tuning.root / "rows.json", "--set", "finetune.epochs=3"]
    for name, wanted, words in [
        ("plain", PRUNING, "pruning is None, expected 'infobatch'"),
        ("pruned", [], "pruning is 'infobatch', expected None"),
        ("pruned", [*PRUNING, "--set", "training.delta=0.9"], "pruning_delta is 0.875, expected 0.9"),
    ]:
        outcome = tuning.icons("finetune", *options, "--name", name, *wanted)
        assert outcome.code == 2
        assert words in outcome.err


def test_it_goes_on_from_a_checkpoint_to_the_same_end(tuning: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of the first epoch, from within a pruned one, and from the last step; with dropout."""
    monkeypatch.setattr("icons.stages.training.finetune.CHECKPOINTS_KEPT", 100)
    options = [*PRUNING, "--set", "model.lora.dropout=0.1"]
    tune(tuning, "--name", "undisturbed", *options)
    undisturbed = finetuned(tuning, "undisturbed")
    manifest = read_sealed(undisturbed / "manifest.json", "")
    for step in (6, 9, manifest["steps"]):
        folder = finetuned(tuning, f"from-{step}")
        shutil.copytree(undisturbed, folder)
        shutil.rmtree(folder / "final")
        for path in folder.glob("checkpoint-*"):
            if int(path.name.removeprefix("checkpoint-")) > step:
                shutil.rmtree(path)
        write_sealed(folder / "manifest.json", manifest | {"complete": False})
        tune(tuning, "--name", folder.name, *options)
        assert read_sealed(folder / "manifest.json", "") == manifest
        expected, found = adapter(tuning, "undisturbed"), adapter(tuning, folder.name)
        assert all(np.array_equal(expected[name], found[name]) for name in expected), folder.name
        passes = [line["sample_passes"] for line in log(tuning, folder.name)]
        assert passes == [line["sample_passes"] for line in log(tuning, "undisturbed")]


def test_two_processes_leave_out_the_same_and_go_on_after_a_kill(tuning: Project) -> None:
    """The same 8 records a step: by one process at once, in two halves one after the other, by two processes."""
    tune(tuning, *PRUNING, "--name", "one")
    halved = [*PRUNING, "--set", "finetune.batch_size=4", "--set", "finetune.save_steps=2"]
    tune(tuning, *halved, "--name", "halves", "--set", "finetune.gradient_accumulation=2")
    checkpoint = finetuned(tuning, "rows") / "checkpoint-8"
    kill_both_when(two_processes(tuning, *halved), (checkpoint / "complete").is_file)
    assert not (finetuned(tuning, "rows") / "final").exists()
    again = two_processes(tuning, *halved)
    out, err = zip(*(process.communicate() for process in again), strict=True)
    assert [process.returncode for process in again] == [0, 0], err
    assert [text.count("sample-passes saved") for text in out] == [1, 0], "the main process alone speaks"
    for name in ("halves", "rows"):
        lines, expected = log(tuning, name), log(tuning, "one")
        assert [line["sample_passes"] for line in lines] == [line["sample_passes"] for line in expected]
        np.testing.assert_allclose([line["loss"] for line in lines], [line["loss"] for line in expected], rtol=1e-4)
        whole = adapter(tuning, "one")
        for key, tensor in adapter(tuning, name).items():
            np.testing.assert_allclose(tensor, whole[key], atol=2e-4, err_msg=key)


def test_where_nothing_can_be_left_out_it_says_so(tuning: Project) -> None:
    few = ["--set", "finetune.epochs=1", "--set", "finetune.max_steps=2"]
    out = tune(tuning, *PRUNING, "--name", "pruned", *few)
    assert "training.pruning has nothing to leave out of 1 epoch(s): the first is whole" in out
    assert "0 of 16 sample-passes saved (0.0%)" in out
    tune(tuning, "--name", "plain", *few)
    expected, found = adapter(tuning, "plain"), adapter(tuning, "pruned")
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.ratio=1.0", "training.ratio: "),
        ("training.ratio=0", "training.ratio: "),
        ("training.delta=1.5", "training.delta: "),
        ("training.pruning=random", "training.pruning: "),
    ],
)
def test_settings_that_are_none(tuning: Project, setting: str, words: str) -> None:
    outcome = tuning.icons("finetune", "--everything", *PRUNING, "--set", setting)
    assert outcome.code == 2
    assert words in outcome.err
    assert not (tuning.run / "finetune").exists()


def test_a_warmup_is_pruned_and_promises_no_checkpoint_that_it_may_not_reach(project: Project) -> None:
    project.raw["warmup"] |= {"epochs": 3, "max_steps": None, "projector_learning_rate": None}
    project.raw["gradients"]["checkpoints"] = [12]
    project.save()
    outcome = project.icons("warmup", *PRUNING)
    assert outcome.code == 2
    assert "will leave no checkpoint 12; it has 9 steps or more, as training.pruning leaves them" in outcome.err
    outcome = project.icons("warmup", *PRUNING, "--set", "gradients.checkpoints=[8]")
    assert outcome.code == 0, outcome.err
    assert "of 90 sample-passes saved" in outcome.out
    assert (project.run / "warmup" / "checkpoint-8" / "complete").is_file()
