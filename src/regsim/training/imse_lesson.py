"""What IMSE's evaluator is taught, and checked by: the true difference of two places of one image, one of them restyled."""

import torch
from scipy.stats import spearmanr
from torch import nn

from regsim.metrics.evaluator_network import EvaluatorNetwork
from regsim.misalign.restyled import RestyledBatch, RestyledMaker
from regsim.training.checks import drawn

TINY = 1e-6


class EvaluatorLoss:
    """`objective(network, batch) -> (loss, figures)`: mean |E - d| + squared * mean (E - d)^2 over the mask; d is the truth.

    Figures: `relative`, the sum of |E - d| over that of |d|: 1 = as good as predicting nothing.

    Args:
        squared: see `ImseStage`.
    """

    def __init__(self, squared: float = 0.0):
        self.squared = squared

    def __call__(self, network: nn.Module, batch: RestyledBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and its figures."""
        mask = batch.pairs.mask
        wrong = (network(batch.styled, batch.reference).float() - batch.difference) * mask
        total = mask.sum().clamp_min(1)
        absolute = wrong.abs().sum()
        relative = absolute / (batch.difference.abs() * mask).sum().clamp_min(TINY)
        loss = absolute / total
        if self.squared:
            loss = loss + self.squared * wrong.square().sum() / total
        return loss, {"relative": relative.detach()}


class EvaluatorCheck:
    """`check(network) -> figures` on pairs of the validation subjects, always the same ones.

    - `relative`: relative L1, all pairs together (1 = as good as predicting nothing).
    - `spearman`: rank correlation of the mean |E| with the true displacement.

    Args:
        maker: makes the pairs.
        count: how many.
        seed: of the pairs.
    """

    def __init__(self, maker: RestyledMaker, count: int, seed: int):
        self.batches = drawn(maker, count, seed)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Figures of a network; see the class."""
        assert isinstance(network, EvaluatorNetwork)
        return evaluator_figures(network, self.batches)


@torch.no_grad()
def evaluator_figures(network: EvaluatorNetwork, batches: list[RestyledBatch]) -> dict[str, float]:
    """`relative` and `spearman` over some batches; see `EvaluatorCheck`."""
    device = next(network.parameters()).device
    wrong = right = 0.0
    values, errors = [], []
    for batch in (each.to(device) for each in batches):
        mask = batch.pairs.mask
        predicted = network(batch.styled, batch.reference).float()
        wrong += float(((predicted - batch.difference).abs() * mask).sum())
        right += float((batch.difference.abs() * mask).sum())
        values.append((predicted.abs() * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp_min(TINY))
        errors.append(batch.pairs.error)
    value, error = torch.cat(values).cpu(), torch.cat(errors).cpu()
    known = bool(value.isfinite().all()) and len(value) > 1 and float(value.std()) > 0
    return {
        "relative": wrong / max(right, TINY),
        "spearman": float(spearmanr(value, error).statistic) if known else 0.0,
    }
