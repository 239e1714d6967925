"""Which samples go through the model together: neighbours in length, under a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Positions of `lengths`, grouped; the longest first, so that running out of memory shows at once.

    A batch costs count x longest padded tokens, at most `tokens_per_batch`; a sample longer than that goes alone. The
    plan depends on the lengths alone.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    batches: list[list[int]] = []
    for position in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens_per_batch:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
