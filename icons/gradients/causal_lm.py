"""Per-sample LoRA gradients of any PEFT causal language model, from a batch as a Hugging Face collator gives it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from icons.gradients.layers import ALL
from icons.gradients.lora import lora_pairs
from icons.gradients.operands import GRAD_DTYPES
from icons.gradients.per_sample import IGNORE, ForwardPass
from icons.gradients.projection import make_projector
from icons.gradients.quantized import is_quantized
from icons.gradients.rows import projections
from icons.gradients.transfer import to_device
from icons.gradients.types import sgd

REQUIRED, OPTIONAL = ("input_ids", "labels"), ("attention_mask",)


@dataclass(frozen=True)
class Projected:
    """Of each of B samples, on the model's device: what `projected` says."""

    rows: Tensor  # [B, dim] float32, the projection of the sample's gradient
    norms: Tensor  # [B] float32, the L2 norm of the gradient of all that counts, not of its projection
    losses: Tensor  # [B] float32, mean cross-entropy of its predicted tokens, in nats
    tokens: Tensor  # [B] int64, how many tokens are predicted

    @property
    def unit(self) -> Tensor:
        """`rows` as unit rows, which a run stores (in float16); their products are cosines. Zeros stay zeros."""
        return F.normalize(self.rows, dim=1, eps=1e-30)


def projected(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    dim: int = 5120,
    seed: int = 0,
    projection: str = "count_sketch",
    layers: str = ALL,
) -> Projected:
    """The LoRA gradient of each sample's own mean token loss, projected to `dim` numbers.

    `model` is a PEFT model of a text-only `AutoModelForCausalLM` with one active LoRA adapter on linear layers; it is
    run in eval mode, without dropout, and left as it was. Gradients are made in its base model's dtype, which is
    float32, bfloat16 or float16.

    `batch` has `input_ids` [B, T], `labels` [B, T] (as Hugging Face has them: those of the same positions, -100 where
    nothing is to be predicted) and, if there is padding, `attention_mask` [B, T], on any device. Padding may be on
    either side: it is not predicted, and nothing is predicted from it. The whole batch takes one forward and one
    backward pass.

    `dim`, `seed` and `projection` (count_sketch or rademacher) are those of the config's `gradients` section: a LoRA
    tensor of the same name is projected by the same matrix as in a run. So is `layers`: with `last-N` only the LoRA
    tensors of the last N decoder layers count, in `rows` and in `norms`, and the backward pass ends there.

    Losses that a model adds to that of the tokens, such as a router's, have no part in it. Source: ICONS (arXiv
    2501.00654) section 3.

    Raises ValueError for a batch of other keys or shapes, a sample without a label, a model whose per-sample gradients
    cannot be taken, and for `layers` that it does not have.
    """
    for name, module in model.named_modules():
        if is_quantized(module):
            raise ValueError(f"{name}: weights in 8 or 4 bits are for a run alone (model.quantization)")
    pairs, projector = lora_pairs(model, layers), make_projector(projection, dim, seed)
    if strange := [pair for pair in pairs if pair.dtype not in GRAD_DTYPES]:
        raise ValueError(f"{strange[0].name} is in {strange[0].dtype}; load the model in float32, bfloat16 or float16")
    _check(batch)
    device = pairs[0].a.weight.device
    labels_BT = _predicted(batch)
    # Logits are made where any sample predicts something, if the model can be told so; a prompt's are not.
    wanted_Q = (labels_BT != IGNORE).any(0).nonzero().squeeze(1)
    takes = inspect.signature(_bare(model).forward).parameters
    arguments: dict[str, Any] = {"input_ids": to_device(batch["input_ids"], device), "use_cache": False}
    if "logits_to_keep" in takes:
        arguments["logits_to_keep"] = to_device(wanted_Q, device)
        labels_BT = labels_BT[:, wanted_Q]
    mask_BT = batch.get("attention_mask")
    if mask_BT is not None:
        arguments["attention_mask"] = to_device(mask_BT, device)
        if "position_ids" in takes and not bool(mask_BT[:, 0].all()):
            # Padding on the left: positions are counted from the first token, as they would be without it.
            arguments["position_ids"] = (arguments["attention_mask"].long().cumsum(1) - 1).clamp(min=0)

    def logits() -> Tensor:
        answer: Tensor = model(**arguments).logits
        return answer

    with _frozen(model), nullcontext() if layers == ALL else _plain_embeddings(model):
        # The model's own head, whatever it does after the last layer: what is asked of it here are its logits.
        found = projections(ForwardPass(pairs, logits, nn.Identity(), labels_BT), projector, sgd)
    return Projected(found.values_BD, found.norms_B, found.losses.mean_B, found.losses.tokens_B)


def _check(batch: Mapping[str, Tensor]) -> None:
    missing = [key for key in REQUIRED if key not in batch]
    if missing:
        raise ValueError(f"batch: {' and '.join(missing)} missing; expected input_ids, labels and attention_mask")
    strange = sorted(set(batch) - {*REQUIRED, *OPTIONAL})
    if strange:
        raise ValueError(f"batch: {', '.join(strange)} not understood; expected input_ids, labels and attention_mask")
    shape = tuple(batch["input_ids"].shape)
    for key, tensor in batch.items():
        if len(shape) != 2 or tuple(tensor.shape) != shape:
            raise ValueError(f"batch: {key} has shape {tuple(tensor.shape)}, expected one shape [samples, tokens]")


def _predicted(batch: Mapping[str, Tensor]) -> Tensor:
    """What each position is to predict [B, T], on the CPU: the label of the next one, where neither is padding."""
    labels_BT, mask_BT = batch["labels"].detach().cpu().long(), batch.get("attention_mask")
    next_BT = labels_BT[:, 1:]
    if mask_BT is not None:
        seen_BT = mask_BT.detach().cpu().bool()
        next_BT = next_BT.masked_fill(~(seen_BT[:, 1:] & seen_BT[:, :-1]), IGNORE)
    predicting_B = (next_BT != IGNORE).any(1)
    if not bool(predicting_B.all()):
        sample = int((~predicting_B).nonzero()[0])
        raise ValueError(f"batch: sample {sample} predicts nothing: its labels after its first token are all -100")
    return F.pad(next_BT, (0, 1), value=IGNORE)


def _bare(model: Any) -> nn.Module:
    inside: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inside


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """In eval mode with no parameter asking for a gradient, and afterwards as before."""
    training = [module for module in model.modules() if module.training]
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def _plain_embeddings(model: nn.Module) -> Iterator[None]:
    """The token embeddings ask for no gradient, even where the model was told that they do.

    Gradient checkpointing wants that (`enable_input_require_grads`); no layer would then be without a backward pass.
    """
    embeddings: nn.Module = _bare(model).get_input_embeddings()  # type: ignore[operator]
    hook = embeddings.register_forward_hook(lambda module, inputs, output: output.detach())
    try:
        yield
    finally:
        hook.remove()
