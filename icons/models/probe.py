"""Whether a model works as the gradient engine takes it to, asked of the model itself on a few ids.

Architectures differ in what follows the last hidden state (scales, caps) and in how their layers are called. What is
not known to be right is refused, before any long work.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from icons.data.batches import Batch
from icons.data.tokens import IGNORE
from icons.errors import UserError
from icons.gradients.per_sample import backpropagate
from icons.models.vlm import VisionLanguageModel

TOKENS = 12
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far logits may differ, as a share of the largest: two orders of the same rounding."""


def with_right_head(model: VisionLanguageModel) -> VisionLanguageModel:
    """The model whose `head` gives the model's own logits; a UserError when neither way of making them does."""
    ids_1T = _ids(model)
    with torch.no_grad():
        theirs = model.base(input_ids=ids_1T, use_cache=False).logits[0].float()
        hidden = model.base.base_model(input_ids=ids_1T, use_cache=False).last_hidden_state[0]
        for scaled in (False, True):
            candidate = replace(model, scaled_head=scaled)
            if _close(candidate.head(hidden).float(), theirs, model.base.dtype):
                return candidate
    raise UserError(f"model.base: {type(model.base).__name__} makes its logits in a way that is not supported")


def require_gradients(model: VisionLanguageModel, layers: str, advice: str) -> None:
    """Raises UserError when the per-sample gradients of these layers' LoRA (`icons.gradients.layers`) cannot be taken.

    One short sample is tried; `advice` ends the message.
    """
    ids_1T = _ids(model)
    labels = torch.full_like(ids_1T, IGNORE).cpu()
    labels[:, -2:] = 1
    batch = Batch([0], [TOKENS], ids_1T.cpu(), labels, [], [()])
    try:
        backpropagate(model.forward_pass(model.lora_pairs(layers), batch), lambda name, gradients: None)
    except (ValueError, AttributeError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.base: per-sample gradients of {type(model.base).__name__} cannot be taken ({reason}); {advice}"
        ) from None


def _ids(model: VisionLanguageModel) -> Tensor:
    """[1, TOKENS] of ordinary ids, none of them an image's."""
    special: Any = {model.inputs.image_token_id, *getattr(model.inputs.tokenizer, "all_special_ids", [])}
    size = model.base.get_input_embeddings().weight.shape[0]
    ids = [token for token in range(min(size, 400), 0, -1) if token < size and token not in special][:TOKENS]
    return torch.tensor([ids], device=model.device)


def _close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not bool(theirs.isfinite().all()):
        return True  # weights with NaN: said when a loss is not finite, with the record
    allowed = CLOSE.get(dtype, 5e-2) * float(theirs.abs().max())
    return bool((ours - theirs).abs().max() <= allowed)
