"""A Hugging Face model with its LoRA adapter: its inputs and its forward pass up to the hidden states."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from icons.data.batches import Batch, stack_images
from icons.data.formats import ImageInputs, InputFormat
from icons.gradients.layers import ALL
from icons.gradients.lora import LoraPair, lora_pairs
from icons.gradients.operands import triton_problem
from icons.gradients.per_sample import ForwardPass
from icons.gradients.transfer import to_device
from icons.models.fused import Swap, fused_parts, in_place_of_their_own
from icons.models.last_layer import labelled_positions, last_layer_at, prunable_layer

SHORT_ANSWERS = {"cpu": 0.9, "gpu": 0.5}
"""The part of a batch's positions up to which the last layer is run at the labelled ones alone. Such attention takes a
mask: on a GPU that rules the fastest kernel out, on a CPU it costs next to nothing."""


@dataclass(frozen=True)
class VisionLanguageModel:
    """`peft` is the PeftModel (or the bare model before an adapter is attached), frozen and in eval mode.

    `device` is where its inputs go; with `model.device_map` its layers lie on others too.
    """

    peft: nn.Module
    base: Any  # of AutoModelForImageTextToText or AutoModelForCausalLM
    inputs: InputFormat
    device: torch.device
    scaled_head: bool = False  # found out by icons.models.probe

    def lora_pairs(self, layers: str = ALL) -> list[LoraPair]:
        """All of them, of which those of `layers` count; a ValueError when the model has not so many."""
        last = prunable_layer(self.base.get_decoder())
        # Run at the labelled positions alone, its queries read another input than its keys.
        return lora_pairs(self.peft, layers, apart=[] if last is None else [last.self_attn.q_proj])

    def forward_pass(self, pairs: list[LoraPair], batch: Batch) -> ForwardPass:
        """How to run the batch; the last layer only where a label is, when that is `SHORT_ANSWERS` of it or less."""
        layer = prunable_layer(self.base.get_decoder())
        index_BQ, labels_BQ = labelled_positions(batch.labels)
        most = SHORT_ANSWERS["cpu" if self.device.type == "cpu" else "gpu"] * batch.labels.shape[1]
        whole = layer is None or index_BQ.shape[1] > most
        last = self.device if layer is None else next(layer.parameters()).device

        def hidden() -> Tensor:
            with self.fused():
                if whole:
                    return self.hidden_states(batch)
                with last_layer_at(layer, to_device(index_BQ, last)):
                    return self.hidden_states(batch)

        return ForwardPass(pairs, hidden, self.head, batch.labels if whole else labels_BQ)

    def fused(self) -> AbstractContextManager[None]:
        """While open, on a GPU, the decoder's element-wise work takes one operation each; elsewhere nothing changes."""
        if self.device.type != "cuda":
            return nullcontext()
        return in_place_of_their_own(self._fused_parts, kernels=triton_problem() is None)

    @cached_property
    def _fused_parts(self) -> list[Swap]:
        return fused_parts(self.base.get_decoder(), kernels=triton_problem() is None)

    def head(self, hidden_NH: Tensor) -> Tensor:
        """Logits [n, V] of positions [n, H]; with `scaled_head` scaled and capped as the config says (Cohere)."""
        logits: Tensor = self.base.get_output_embeddings()(hidden_NH)
        if not self.scaled_head:
            return logits
        config = self.base.config.get_text_config()
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def hidden_states(self, batch: Batch) -> Tensor:
        """Last hidden states [B, T, H] of a right-padded batch.

        Without an attention mask: under causal attention no real token sees the padding behind it, and the fast
        attention kernels stay available. The vision tower keeps no graph, as nothing in it asks for a gradient.
        """
        input_ids = to_device(batch.input_ids, self.device)
        if self.base.config.model_type == "llava":
            return self._llava_hidden_states(batch, input_ids)
        output = self.base.base_model(input_ids=input_ids, use_cache=False, **self.image_arguments(batch, input_ids))
        hidden: Tensor = output.last_hidden_state
        return hidden

    def image_arguments(self, batch: Batch, input_ids_BT: Tensor) -> dict[str, Tensor]:
        """What the model's forward pass takes beside the ids: image tensors, and which ids stand for an image."""
        arguments = self._on_device(batch.shown_images)
        if self.inputs.image_token_id is not None:
            flags_BT = torch.eq(input_ids_BT, self.inputs.image_token_id).int()
            arguments |= dict.fromkeys(self.token_type_arguments, flags_BT)
        return arguments

    def _on_device(self, images: Sequence[ImageInputs]) -> dict[str, Tensor]:
        """Joined on the device: the copies there start from page-locked memory and wait for nothing."""

        def moved(tensor: Tensor) -> Tensor:
            return to_device(tensor, self.device, self.base.dtype if tensor.is_floating_point() else None)

        return stack_images([{name: moved(tensor) for name, tensor in image.items()} for image in images])

    @cached_property
    def token_type_arguments(self) -> list[str]:
        """Qwen-VL places images in its rotary embedding by these; Gemma 3 lets an image's tokens see each other."""
        taken = inspect.signature(self.base.base_model.forward).parameters
        names = ("mm_token_type_ids", "token_type_ids")
        return [name for name in names if name in taken]

    def _llava_hidden_states(self, batch: Batch, input_ids_BT: Tensor) -> Tensor:
        """LLaVA-1.5's own forward pass with the vision tower run once for each distinct image."""
        with torch.no_grad():
            embeds_BTH = self.base.get_input_embeddings()(input_ids_BT)
            if batch.images:
                features_IPH = self._image_features(self._on_device(batch.images)["pixel_values"])
                shown = [index for positions in batch.image_index for index in positions]
                owners = to_device(torch.tensor(shown), features_IPH.device)
                assert self.inputs.image_token_id is not None
                is_image = torch.eq(input_ids_BT, self.inputs.image_token_id).unsqueeze(-1)
                embeds_BTH = embeds_BTH.masked_scatter(is_image, features_IPH[owners].to(embeds_BTH))
        hidden: Tensor = self.base.model.language_model(inputs_embeds=embeds_BTH, use_cache=False).last_hidden_state
        return hidden

    def _image_features(self, pixels_I3HW: Tensor) -> Tensor:
        features = self.base.model.get_image_features(pixel_values=pixels_I3HW)
        features = getattr(features, "pooler_output", features)
        return features if isinstance(features, Tensor) else torch.stack(list(features))
