"""Runs a training program with its own arguments up to its training, and writes what it would train on instead.

    python trainer.py OUT.npz PROGRAM ARGUMENT ...

PROGRAM is trl, llamafactory or swift; all three train with Hugging Face's Trainer. Row by row, in the order of its data
set, the program's own collator makes a batch of one: `ids-0`, `labels-0` (padding left out) and, where the row shows an
image, `pixels-0` [3, H, W]. Runs in the program's environment.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from transformers import Trainer


def dump(self: Any, *arguments: Any, **options: Any) -> None:
    image = self.model.config.image_token_id
    arrays = {}
    for row in range(len(self.train_dataset)):
        batch = self.data_collator([self.train_dataset[row]])
        kept = batch["attention_mask"][0].bool()
        ids = batch["input_ids"][0][kept]
        arrays[f"ids-{row}"] = ids.numpy()
        arrays[f"labels-{row}"] = batch["labels"][0][kept].numpy()
        if bool((ids == image).any()):  # LLaMA-Factory gives a row without an image one that nothing looks at
            arrays[f"pixels-{row}"] = batch["pixel_values"][0].float().numpy()
    np.savez(sys.argv[1], **arrays)
    sys.stdout.flush()
    sys.exit(0)


def main() -> None:
    program, arguments = sys.argv[2], sys.argv[3:]
    Trainer.train = dump
    if program == "trl":
        from trl.scripts import sft

        parsed = sft.make_parser().parse_args_and_config(arguments, fail_with_unknown_args=False)
        sft.main(*parsed[:4])
    elif program == "llamafactory":
        from llamafactory.train.tuner import run_exp

        run_exp(arguments)
    else:
        from swift import sft_main

        sft_main(arguments)


if __name__ == "__main__":
    main()
