"""What a submission consists of, for a given state of the run and of the queue; the real Slurm is in tests/slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from icons.cluster.slurm import QueuedJob
from icons.cluster.submission import Name, Order, Plan
from icons.config import Config
from icons.config_file import load_config
from icons.ranges import as_ranges
from icons.stages.checks.status import Piece
from tests.conftest import ROOT, Project


@pytest.fixture
def config(finished: Project) -> Config:
    return load_config(finished.config)


def chunks(*states: str, checkpoint: str = "final", job: str = "") -> list[Piece]:
    return [Piece("train-grads", f"c{n}", s, "", checkpoint, n, job=job, host="node") for n, s in enumerate(states)]


def queued(name: object, job: str, index: int | None = None, state: str = "PENDING", waits: str = "") -> QueuedJob:
    return QueuedJob(job, job.partition("_")[0], index, state, bool(waits), waits == "failed", str(name))


def as_text(orders: list[Order]) -> list[str]:
    return [f"{str(order.name).partition('@')[0]} {as_ranges(order.indices or ())}" for order in orders]


def test_only_what_is_missing_by_checkpoint(config: Config) -> None:
    pieces = [*chunks("done", "missing", "failed"), *chunks("stopped", "done", "damaged", checkpoint="500")]
    plan = Plan(config, pieces, [])
    assert as_text(plan.array_orders("train-grads", 1001)) == ["train-grads:final 1-2", "train-grads:500 0,2"]


def test_three_thousand_chunks_on_a_cluster_that_takes_arrays_of_1001(config: Config) -> None:
    pieces = chunks(*["missing"] * 3000)
    orders = Plan(config, pieces, []).array_orders("train-grads", 1001)
    assert as_text(orders) == [
        "train-grads:final 0-1000",
        "train-grads:final+1001 0-1000",
        "train-grads:final+2002 0-997",
    ]
    covered = [order.name.offset + index for order in orders for index in order.indices or ()]
    assert covered == list(range(3000))


def test_what_is_queued_is_waited_for_whatever_becomes_of_its_array(config: Config) -> None:
    plan = Plan(config, chunks("done", "missing", "missing", "failed"), [])
    name = Name("train-grads", "final", 2, plan.run)
    plan.jobs = [queued(name, "7_0", 0), queued(Name("train-grads", "final", 2, "00000000"), "8_1", 1)]
    assert as_text(plan.array_orders("train-grads", 1001)) == ["train-grads:final 1,3"]
    assert plan.waits["train-grads"] == ["afterany:7"]


def test_a_heartbeat_counts_only_while_its_job_runs(config: Config) -> None:
    alive = queued("interactive", "12", state="RUNNING")
    plan = Plan(config, chunks("running", job="12"), [alive])
    assert plan.array_orders("train-grads", 1001) == []
    assert plan.waits["train-grads"] == ["afterany:12"]
    plan = Plan(config, chunks("running", job="11"), [alive])  # killed a moment ago: its beat is still fresh
    assert as_text(plan.array_orders("train-grads", 1001)) == ["train-grads:final 0"]
    plan = Plan(config, chunks("running"), [alive])  # computed by hand
    assert plan.array_orders("train-grads", 1001) == []
    assert plan.notes == ["train-grads final c0 is running already on node"]


def test_a_follower_is_replaced_when_more_is_submitted_before_it(config: Config) -> None:
    plan = Plan(config, [Piece("merge", "", "missing", checkpoint="final")], [])
    plan.jobs = [queued(Name("merge", "", 0, plan.run), "9", waits="yes")]
    plan.waits["train-grads"] = ["afterany:7"]
    assert plan.single_order("merge") is None
    assert plan.waits["merge"] == ["afterok:9"]
    plan.renewed.add("train-grads")
    assert plan.single_order("merge") is not None
    assert plan.outdated() == ["9"]


def test_an_array_that_waits_for_less_than_is_submitted_now_is_replaced(config: Config) -> None:
    plan = Plan(config, chunks("missing", "missing"), [])
    name = Name("train-grads", "final", 0, plan.run)
    plan.jobs = [queued(name, "7_0", 0, waits="yes"), queued(name, "7_1", 1, waits="yes")]
    plan.renewed.add("warmup")
    assert as_text(plan.array_orders("train-grads", 1001)) == ["train-grads:final 0-1"]
    assert plan.outdated() == ["7"]
    plan.jobs = [queued(name, "7_0", 0), queued(name, "7_1", 1)]  # begun before, and requeued
    assert plan.array_orders("train-grads", 1001) == []


def test_what_waits_for_a_failed_job_is_submitted_anew(config: Config) -> None:
    plan = Plan(config, [Piece("merge", "", "missing", checkpoint="final")], [])
    plan.jobs = [queued(Name("merge", "", 0, plan.run), "9", waits="failed")]
    assert plan.single_order("merge") is not None
    assert plan.outdated() == ["9"]


def test_a_stage_that_is_done_runs_again_behind_new_rows(config: Config) -> None:
    plan = Plan(config, [Piece("merge", "", "done", checkpoint="final")], [])
    assert plan.single_order("merge") is None
    plan.waits["train-grads"] = ["afterok:7"]
    assert plan.single_order("merge") is not None


def test_exact_influence_needs_the_tasks_first(finished: Project) -> None:
    exact = load_config(finished.config, ["gradients.projection=none"])
    assert Plan(exact, [], []).before("train-grads") == ["warmup", "val-grads"]


@pytest.mark.parametrize("name", [Name("warmup", "", 0, "0123abcd"), Name("train-grads", "500", 1001, "0123abcd")])
def test_names_are_read_back(name: Name) -> None:
    assert Name.parse(str(name)) == name
    assert Name.parse("somebody's job") is None


def test_without_slurm_submit_says_so(finished: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = finished.icons("submit", "--partition=gpu", "-t", "60", "--scripts", ROOT / "scripts")
    assert outcome.code == 2
    assert outcome.err == "error: squeue is not here; submit from a machine with Slurm's commands\n"
