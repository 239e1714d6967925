"""How many padded tokens go through a model at once: what its backward pass keeps of a token, and what is free.

For one decoder layer of width H with an MLP of width I, n_h query and n_kv key heads of d numbers, LoRA of rank r on
all seven linear layers, and numbers of e bytes (2 in bfloat16), autograd keeps of a token

    4 e I                   the MLP: gate, its activation, up, and their product
    2 e (n_h + n_kv) d      attention: queries, keys, values, and its output
    (8 + 2 e) H             both RMSNorms: their input in float32, and what they give
    7 e r                   A x of the seven LoRA layers
    4 n_h                   the log-sum of each head's softmax, float32

An upper bound for layers that LoRA leaves out, and for a last layer computed at the labels alone; layers before the
first that counts (`icons.gradients.layers`) keep nothing. Models whose layers hold more (norms of queries and keys,
say) keep more: a batch that does not fit is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GIB = 2**30
MOST_TOKENS = 16384
"""More gain nothing: products of this many rows keep a GPU's units busy."""
SHARE = 0.9
APART = 1.5 * GIB
"""What does not grow with the tokens: a layer's per-sample gradients, logits, what a product takes for itself."""
STEP = 0.75


@dataclass(frozen=True)
class DecoderShape:
    """A decoder's shape, in the words of the formula above; `number_bytes` is e.

    `layers` are those that the backward pass goes through, and one more where there are others.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_dim: int
    rank: int
    number_bytes: int


def token_bytes(shape: DecoderShape) -> int:
    """Bytes that the backward pass needs kept of one token, over all layers."""
    e = shape.number_bytes
    mlp = 4 * e * shape.intermediate
    attention = 2 * e * (shape.heads + shape.key_heads) * shape.head_dim
    norms = (8 + 2 * e) * shape.hidden
    return shape.layers * (mlp + attention + norms + 7 * e * shape.rank + 4 * shape.heads)


def tokens_that_fit(free_bytes: float, bytes_per_token: int) -> int:
    """Padded tokens of a batch, 1 to `MOST_TOKENS`; `free_bytes` is what a device has left with all else loaded."""
    return max(1, min(MOST_TOKENS, int((SHARE * free_bytes - APART) / bytes_per_token)))


def split_layers(layers: int, room: Sequence[float], layer_bytes: float, kept_bytes: float) -> list[int] | None:
    """How many layers, in their order, go to each device, so that the most tokens fit; None: they do not fit.

    `room` has the bytes of each device that nothing else takes; a layer takes `layer_bytes` for its weights and
    `kept_bytes` for a token. Where there is a choice the shares are even.
    """

    def most(tokens: int) -> list[int]:
        return [max(0, int((each - APART / SHARE) / (layer_bytes + tokens * kept_bytes / SHARE))) for each in room]

    if sum(most(1)) < layers:
        return None
    fit, too_many = 1, MOST_TOKENS + 1
    while too_many - fit > 1:
        tokens = (fit + too_many) // 2
        fit, too_many = (tokens, too_many) if sum(most(tokens)) >= layers else (fit, tokens)
    counts = [0] * len(room)
    for _ in range(layers):
        open_ = [device for device, count in enumerate(counts) if count < most(fit)[device]]
        counts[min(open_, key=counts.__getitem__)] += 1
    return counts


def fewer_tokens(failed: int, longest: int) -> int:
    """The budget after a batch of `failed` padded tokens ran out of memory; `longest` is its longest sample.

    Three quarters: the estimate is near, and half would leave a third of the memory unused from then on.
    """
    return max(int(STEP * failed), longest)
