"""Greedy answers of a model, to prompts of one length at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from icons.data.batches import Batch
from icons.models.vlm import VisionLanguageModel


def greedy_answers(model: VisionLanguageModel, batch: Batch, prompt_length: int, most: int) -> list[str]:
    """The text behind the first `prompt_length` ids of each sample, at most `most` tokens, without special ones.

    All prompts of the batch have this length, so none is padded.
    """
    input_ids = batch.input_ids[:, :prompt_length].to(model.device)
    tokenizer = model.inputs.tokenizer
    with torch.no_grad():
        output: Tensor = model.base.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=most,
            pad_token_id=model.inputs.pad_token_id,
            **model.image_arguments(batch, input_ids),
        )
    answers: list[str] = tokenizer.batch_decode(output[:, prompt_length:], skip_special_tokens=True)
    return answers
