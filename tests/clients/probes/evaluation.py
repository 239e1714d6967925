"""Runs lmms-eval with its own arguments, and writes what its model was given for every row of the task.

    python evaluation.py OUT.npz ARGUMENT ...

`ids-0` and `pixels-0` [3, H, W] of row 0, and so on; `labels-0` are the tokens of the answer, special ones left in.
Runs in lmms-eval's environment, with the task in ../task.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from transformers import LlavaForConditionalGeneration

arrays: dict[str, Any] = {}
generate = LlavaForConditionalGeneration.generate


def written(self: Any, **inputs: Any) -> Any:
    row, asked = os.environ["ICONS_ROW"], inputs["input_ids"]
    outputs = generate(self, **inputs)
    arrays[f"ids-{row}"] = asked[0].numpy()
    arrays[f"labels-{row}"] = outputs[0, asked.shape[1] :].numpy()
    arrays[f"pixels-{row}"] = inputs["pixel_values"][0].float().numpy()
    return outputs


if __name__ == "__main__":
    from lmms_eval.__main__ import cli_evaluate

    LlavaForConditionalGeneration.generate = written
    out = sys.argv.pop(1)
    try:
        cli_evaluate()
    finally:
        np.savez(out, **arrays)
