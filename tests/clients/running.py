"""A program run in its own environment, by the command of docs/reproduce.md, in a folder as that page leaves it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.clients.environments import variables

PROBES = Path(__file__).parent / "probes"


@dataclass(frozen=True)
class Client:
    """`environment` is its virtual environment, `root` where it runs, `scratch` an empty folder for what it writes."""

    environment: Path
    root: Path
    scratch: Path

    def run(self, words: list[str], **more: str) -> str:
        """What it printed; the test fails with its end when the program does."""
        environment = variables(self.environment, **more)
        program = shutil.which(words[0], path=environment["PATH"])
        assert program, f"{self.environment} has no {words[0]}"
        done = subprocess.run(
            [program, *words[1:]], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def probe(self, name: str, words: list[str], **more: str) -> Path:
        """Runs probes/NAME.py, and returns the file that it has written."""
        written = self.scratch / "read.npz"
        written.unlink(missing_ok=True)
        self.run(["python", str(PROBES / f"{name}.py"), str(written), *words], **more)
        return written


def trained(folder: Path) -> tuple[int, list[float]]:
    """Steps and losses of the last checkpoint that Hugging Face's Trainer has left in a folder; it has an adapter."""
    states = sorted(folder.rglob("trainer_state.json"), key=lambda path: path.stat().st_mtime)
    assert states, f"no checkpoint in {folder}"
    assert (states[-1].parent / "adapter_model.safetensors").is_file()
    state = json.loads(states[-1].read_text())
    return state["global_step"], [entry["loss"] for entry in state["log_history"] if "loss" in entry]
