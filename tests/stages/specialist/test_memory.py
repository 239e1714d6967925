"""Running out of memory: the batch is split, the budget lowered, every sample whole, the rows the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.conftest import Project

# One batch of all samples: without a limit, or with one on the process's address space, set once everything that is not
# the batch's own is in place. Prints how far the address space grew, the budget, and the rows.
PROGRAM = """
import json, resource, sys
from pathlib import Path
import numpy as np
from icons.config_file import load_config
from icons.data.batches import make_batch
from icons.data.sets import open_records
from icons.data.samples import DataSource
from icons.stages.specialist.extractor import Extractor

def status(key):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(key)]
    return int(line.split()[1]) * 1024

config = load_config(Path(sys.argv[1]))
extractor = Extractor(config, "final", "train", {})
source = DataSource(open_records(config.train.data, config.train.images), extractor.model.inputs)
samples, _ = source.samples(range(len(source.records)))
list(extractor.rows(make_batch(samples[:2], source.inputs)[0]))
batch, _ = make_batch(samples, source.inputs)
extractor.tokens_per_batch = batch.padded_tokens
before = status("VmSize:")
if int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_AS, (before + int(sys.argv[2]), -1))
tensors = extractor.empty_shard(0, len(source.records))
for part, rows in extractor.rows(batch):
    extractor.fill(tensors, np.array(part.rows), rows)
np.savez(sys.argv[3], **tensors)
grown = status("VmPeak:") - before
print(json.dumps({"grown": grown, "budget": extractor.tokens_per_batch, "all": batch.padded_tokens}))
"""


def run(project: Project, limit: int, target: str) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    # Large blocks come from the system and go back to it, so that what is freed is free for the limit too.
    calm = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(project.config), str(limit), str(project.root / target)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **calm},
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    with np.load(project.root / target) as stored:
        return json.loads(last), dict(stored), "\n".join(said)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space through Linux's own means")
def test_a_batch_that_does_not_fit_is_split_and_no_sample_is_shortened(copy_of_finished: Project) -> None:
    project = copy_of_finished
    project.raw["model"]["adapter"] = "run/warmup/final"
    project.save()
    free, whole, said = run(project, 0, "whole.npz")
    assert not said
    tight, split, said = run(project, int(free["grown"] * 0.5), "split.npz")
    assert "out of memory with" in said
    assert tight["budget"] <= 0.75 * tight["all"] == 0.75 * free["all"]
    assert split["valid"].all()
    assert split["target_tokens"].tolist() == whole["target_tokens"].tolist()
    np.testing.assert_allclose(split["losses"], whole["losses"], rtol=1e-5)
    np.testing.assert_allclose(split["norms"], whole["norms"], rtol=1e-5)
    np.testing.assert_allclose(split["grads"].astype(np.float32), whole["grads"].astype(np.float32), atol=1e-4)
