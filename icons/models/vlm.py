"""A Hugging Face LLaVA model with its LoRA adapter: its parts, its inputs, its forward pass up to the hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from icons.data.batches import Batch
from icons.data.samples import InputFormat
from icons.gradients.lora import LoraPair, lora_pairs
from icons.gradients.per_sample import ForwardPass
from icons.models.last_layer import labelled_positions, last_layer_at, prunable_layer


@dataclass(frozen=True)
class VisionLanguageModel:
    """`peft` is the PeftModel (or the bare model before an adapter is attached), frozen and in eval mode."""

    peft: nn.Module
    base: Any  # LlavaForConditionalGeneration
    inputs: InputFormat
    device: torch.device

    def lora_pairs(self) -> list[LoraPair]:
        return lora_pairs(self.peft)

    def forward_pass(self, pairs: list[LoraPair], batch: Batch) -> ForwardPass:
        """How to run the batch; the last layer only where a label is, when that is a half of it or less."""
        layer = prunable_layer(self.base.model.language_model)
        index_BQ, labels_BQ = labelled_positions(batch.labels)
        if layer is None or 2 * index_BQ.shape[1] > batch.labels.shape[1]:
            return ForwardPass(pairs, lambda: self.hidden_states(batch), self.head, batch.labels)

        def hidden() -> Tensor:
            with last_layer_at(layer, index_BQ.to(self.device)):
                return self.hidden_states(batch)

        return ForwardPass(pairs, hidden, self.head, labels_BQ)

    def head(self, hidden_NH: Tensor) -> Tensor:
        """Logits [n, V] of positions [n, H]."""
        logits: Tensor = self.base.get_output_embeddings()(hidden_NH)
        return logits

    def hidden_states(self, batch: Batch) -> Tensor:
        """Last hidden states [B, T, H] of a right-padded batch.

        Without an attention mask: under causal attention no real token sees the padding behind it, and the fast
        attention kernels stay available. The vision tower runs once per distinct image and keeps no graph.
        """
        input_ids = batch.input_ids.to(self.device, non_blocking=True)
        with torch.no_grad():
            embeds_BTH = self.base.get_input_embeddings()(input_ids)
            if batch.pixel_values is not None:
                features_IPH = self._image_features(
                    batch.pixel_values.to(self.device, embeds_BTH.dtype, non_blocking=True)
                )
                owners = torch.tensor([i for i in batch.image_index if i >= 0], device=self.device)
                is_image = (input_ids == self.inputs.image_token_id).unsqueeze(-1)
                embeds_BTH = embeds_BTH.masked_scatter(is_image, features_IPH[owners].to(embeds_BTH.dtype))
        hidden: Tensor = self.base.model.language_model(inputs_embeds=embeds_BTH, use_cache=False).last_hidden_state
        return hidden

    def _image_features(self, pixels_I3HW: Tensor) -> Tensor:
        features = self.base.model.get_image_features(pixel_values=pixels_I3HW)
        features = getattr(features, "pooler_output", features)
        return features if isinstance(features, Tensor) else torch.stack(list(features))
