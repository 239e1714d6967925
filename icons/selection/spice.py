"""SPICE (arXiv 2601.23155): greedy information gain with a penalty for gradients that pull against the selection.

In a pool of candidate gradients g_i (not normalised), with den starting at ones, repeat

    gain(i)     = log(1 + alpha * sum_j g_ij^2 / den_j)
    conflict(i) = -cos(g_i, mean of the selected) where that is positive, else 0
    pick          argmax gain(i) - penalty * conflict(i), then den_j += alpha * g_j^4 for the one picked

(den is the diagonal AdaFisher information: h = |g| * g, element by element, so h^2 = g^4.) Ties go to the lower
position. A selection whose gradients cancel out has no direction, and nothing conflicts with it. A zero gradient has
nothing to give and is never picked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CANCELLED = 1e-6
"""|sum g|^2 below this part of sum |g|^2 is what float32 rounding leaves of gradients that cancel out."""


@dataclass(frozen=True)
class Settings:
    """alpha and lambda (`penalty`) of the formula; a pool ends when the best gain is at most `stop` times its first."""

    alpha: float = 1.0
    penalty: float = 0.1
    stop: float = 0.0


@dataclass(frozen=True)
class Picks:
    """Positions in the pool in the order of picking, and the scores [B] of all candidates behind the last pick."""

    positions: list[int]
    scores: Tensor


def pick(pool_BD: Tensor, most: int, settings: Settings) -> Picks:
    """At most `most` of a pool's float32 gradients [B, D]; fewer when the gain has fallen, or none is left with any.

    A pick is one product of the squared pool with 1/den: the inner products that the conflict needs come from the
    pool's Gram matrix, made once.
    """
    alpha = settings.alpha
    squared_BD = pool_BD * pool_BD
    gram_BB = pool_BD @ pool_BD.T
    norms_B = gram_BB.diagonal().sqrt()
    den_D = torch.ones(pool_BD.shape[1])
    with_sum_B, sum_squared = torch.zeros(len(pool_BD)), 0.0  # g_i . s and |s|^2, s the sum of the selected
    squares = 0.0
    open_B = torch.ones(len(pool_BD), dtype=torch.bool)
    positions: list[int] = []
    first_gain = 0.0
    while True:
        gain_B = torch.log1p(alpha * torch.mv(squared_BD, den_D.reciprocal()))
        score_B = gain_B
        if settings.penalty and sum_squared > CANCELLED * squares:
            cosine_B = with_sum_B / (norms_B * math.sqrt(sum_squared) + 1e-30)
            score_B = gain_B - settings.penalty * (-cosine_B).clamp(0, 1)
        # The lowest score there is, so that a zero gradient does not end the pool before rows that only conflict.
        score_B = torch.where(norms_B > 0, score_B, -settings.penalty)
        score_B = torch.where(open_B, score_B, -torch.inf)
        best = int(score_B.argmax())
        gain = float(gain_B[best])
        if len(positions) == most or not open_B[best] or gain <= settings.stop * first_gain or gain == 0:
            return Picks(positions, score_B)
        first_gain = gain if not positions else first_gain
        positions.append(best)
        open_B[best] = False
        sum_squared += 2 * float(with_sum_B[best]) + float(gram_BB[best, best])
        squares += float(gram_BB[best, best])
        with_sum_B += gram_BB[:, best]
        den_D += alpha * squared_BD[best] ** 2


def information(chosen_CD: Tensor, alpha: float) -> float:
    """Log-determinant of the diagonal information: sum over j of log(1 + alpha * sum over the chosen of g_j^4)."""
    return float(torch.log1p(alpha * (chosen_CD**4).sum(dim=0)).double().sum())


def conflicts(chosen_CD: Tensor) -> Tensor:
    """[C]: how far each of the chosen pulls against their mean, -cos(g_i, mean) where that is positive, else 0."""
    mean_D = chosen_CD.mean(dim=0)
    cosine_C = torch.mv(chosen_CD, mean_D) / (chosen_CD.norm(dim=1) * mean_D.norm() + 1e-30)
    against: Tensor = (-cosine_C).clamp(min=0)
    return against
