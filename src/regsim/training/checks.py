"""What a network is checked by while it learns: pairs of the validation subjects, always the same ones."""

from collections.abc import Callable
from typing import TypeVar

import torch
from scipy.stats import spearmanr
from torch import nn

from regsim.misalign.pairs import PairBatch, PairMaker
from regsim.training.objectives import Learner, Lookup

BATCH = 16


Made = TypeVar("Made")


def drawn(make: Callable[[int, torch.Generator], Made], count: int, seed: int) -> list[Made]:
    """Batches of `BATCH` pairs, `count` pairs in all, from a generator of their own: always the same ones."""
    generator = torch.Generator().manual_seed(seed)
    return [make(min(BATCH, count - first), generator) for first in range(0, count, BATCH)]


class PairCheck:
    """`check(learner) -> figures`.

    - `spearman`: rank correlation of the network's distance with the true error, over all pairs.
    - `accuracy`: balanced accuracy of aligned against misaligned at the best `threshold` of the distance.

    Args:
        maker: makes the pairs.
        count: how many.
        seed: of the pairs.
    """

    def __init__(self, maker: PairMaker, count: int, seed: int):
        self.batches = drawn(maker, count, seed)

    def __call__(self, learner: nn.Module) -> dict[str, float]:
        """Figures of a network; see the class."""
        assert isinstance(learner, Learner)
        device = next(learner.parameters()).device
        distance = torch.cat([_distance(learner, batch.to(device)).cpu() for batch in self.batches])
        error = torch.cat([batch.error for batch in self.batches])
        misaligned = torch.cat([batch.misaligned for batch in self.batches])
        accuracy, threshold = best_threshold(distance, misaligned)
        known = bool(distance.isfinite().all()) and float(distance.std()) > 0
        correlation = float(spearmanr(distance, error).statistic) if known else 0.0
        return {"spearman": correlation, "accuracy": accuracy, "threshold": threshold}


def best_threshold(distance: torch.Tensor, misaligned: torch.Tensor) -> tuple[float, float]:
    """The largest balanced accuracy of "misaligned above the threshold", and that threshold (midway between two values).

    >>> best_threshold(torch.tensor([0.1, 0.2, 0.6, 0.9]), torch.tensor([False, False, True, True]))
    (1.0, 0.4...)
    """
    order = distance.argsort()
    values, positive = distance[order].double(), misaligned[order].double()
    below = torch.cat([torch.zeros(1, dtype=torch.float64), (1 - positive).cumsum(0)])
    above = positive.sum() - torch.cat([torch.zeros(1, dtype=torch.float64), positive.cumsum(0)])
    shares = below / (1 - positive).sum().clamp_min(1), above / positive.sum().clamp_min(1)
    balanced = (shares[0] + shares[1]) / 2
    best = int(balanced.argmax())
    edges = torch.cat([values[:1] - 1e-6, (values[1:] + values[:-1]) / 2, values[-1:] + 1e-6])
    return float(balanced[best]), float(edges[best])


@torch.no_grad()
def _distance(learner: Learner, batch: PairBatch) -> torch.Tensor:
    return Lookup(learner, batch).distance
