"""The last decoder layer at the labelled positions alone: nothing after it reads the others.

Keys and values are needed at every position; queries, the output projection and the MLP only where a label is. Loss and
gradients are the same, position by position: those of the left-out positions are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, rotate_half

from icons.gradients.per_sample import IGNORE


def prunable_layer(language_model: Any) -> Any:
    """The last layer when it is a plain Llama layer, whose arithmetic is known here; None otherwise."""
    layer = getattr(language_model, "layers", [None])[-1]
    return layer if type(layer) is LlamaDecoderLayer else None


def labelled_positions(labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Indices [B, Q] of the labelled positions in order and their labels [B, Q].

    Rows with fewer labels are filled up with positions whose label is IGNORE.
    """
    labelled_BT = labels_BT != IGNORE
    most = int(labelled_BT.sum(1).max())
    index_BQ = torch.argsort((~labelled_BT).int(), dim=1, stable=True)[:, :most]
    return index_BQ, labels_BT.gather(1, index_BQ)


def rotated(x_BNTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> Tensor:
    """Rotary position embedding of each head's queries or keys (Su et al., arXiv 2104.09864)."""
    turned_BNTD: Tensor = rotate_half(x_BNTD)
    return x_BNTD * cos_BTD.unsqueeze(1) + turned_BNTD * sin_BTD.unsqueeze(1)


@contextmanager
def last_layer_at(layer: Any, index_BQ: Tensor) -> Iterator[None]:
    """While open, `layer` (see `prunable_layer`) returns hidden states [B, Q, H] of the positions `index` alone."""
    attention = layer.self_attn

    def forward(hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        batch, tokens, width = hidden_states.shape
        at_BQH = index_BQ.unsqueeze(-1).expand(-1, -1, width)
        normed_BTH = layer.input_layernorm(hidden_states)

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, projected.shape[1], -1, attention.head_dim).transpose(1, 2)

        q = heads(attention.q_proj(normed_BTH.gather(1, at_BQH)))
        k = heads(attention.k_proj(normed_BTH))
        v = heads(attention.v_proj(normed_BTH))
        cos_1TD, sin_1TD = position_embeddings
        q = rotated(q, cos_1TD[0][index_BQ], sin_1TD[0][index_BQ])
        k = rotated(k, cos_1TD, sin_1TD)
        seen_B1QT = (torch.arange(tokens, device=index_BQ.device) <= index_BQ.unsqueeze(-1)).unsqueeze(1)
        grouped = k.shape[1] != q.shape[1]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen_B1QT, scale=attention.scaling, enable_gqa=grouped
        )
        out_BQH: Tensor = hidden_states.gather(1, at_BQH)
        out_BQH = out_BQH + attention.o_proj(mixed.transpose(1, 2).reshape(batch, index_BQ.shape[1], -1))
        rest: Tensor = layer.mlp(layer.post_attention_layernorm(out_BQH))
        return out_BQH + rest

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
