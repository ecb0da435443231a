"""What the network of `two_channel` is taught, and checked by: aligned or misaligned, cell by cell."""

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from regsim.metrics.networks import averaged
from regsim.metrics.two_channel_network import TwoChannelNetwork
from regsim.misalign.pairs import PairBatch, PairMaker
from regsim.training.checks import best_threshold, drawn

TINY = 1e-6


class CellCrossEntropy:
    """`objective(network, batch) -> (loss, figures)`: cross-entropy of aligned against misaligned cells.

    The true displacement of a cell is the mean length over its voxels. Cells up to `aligned` are aligned, those from
    `misaligned` on are misaligned, and those between teach nothing: whether 2 voxels are much is nobody's to say. Cells count by
    the anatomy that they show. Both classes weigh the same in every batch, so the probability is one for even odds.

    Args:
        aligned, misaligned: lengths, physical units.
        both_ways: each pair is shown twice, once with its images exchanged.
    """

    def __init__(self, aligned: float, misaligned: float, both_ways: bool = True):
        self.aligned, self.misaligned, self.both_ways = aligned, misaligned, both_ways

    def __call__(self, network: nn.Module, batch: PairBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch; the balanced share of cells that are called right."""
        assert isinstance(network, TwoChannelNetwork)
        fixed, moving = (network.prepared(image, batch.mask) for image in (batch.fixed, batch.moving))
        length, content = batch.displacement.norm(dim=1, keepdim=True), batch.content
        if self.both_ways:
            fixed, moving = torch.cat([fixed, moving]), torch.cat([moving, fixed])
            length, content = length.repeat(2, *[1] * (length.ndim - 1)), content.repeat(2, *[1] * (content.ndim - 1))
        logits = network(fixed, moving).float()
        kinds = self.kinds(averaged(length, logits.shape[2:]), averaged(content, logits.shape[2:]))
        losses = [(F.softplus(sign * logits) * kind).sum() for sign, kind in zip((1, -1), kinds, strict=True)]
        right = [((sign * logits < 0) * kind).sum() for sign, kind in zip((1, -1), kinds, strict=True)]
        return torch.stack(losses).sum() / 2, {"accuracy": torch.stack(right).sum() / 2}

    def kinds(self, length: torch.Tensor, content: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of the aligned and of the misaligned cells, each summing to 1 (or 0 where there are none)."""
        near, far = content * (length <= self.aligned), content * (length >= self.misaligned)
        return near / near.sum().clamp_min(TINY), far / far.sum().clamp_min(TINY)


class TwoChannelCheck:
    """`check(network) -> figures` on pairs of the validation subjects, always the same ones.

    - `spearman`: rank correlation of the metric's value with the true error; `accuracy`: of aligned against misaligned pairs, at
      the best threshold; `loss`, `cells`: the loss, and the balanced share of cells that are called right.

    Args:
        maker: makes the pairs.
        count: how many.
        seed: of the pairs.
        objective: what the loss is.
    """

    def __init__(self, maker: PairMaker, count: int, seed: int, objective: CellCrossEntropy):
        self.batches = drawn(maker, count, seed)
        self.objective = objective

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Figures of a network; see the class."""
        assert isinstance(network, TwoChannelNetwork)
        device = next(network.parameters()).device
        value = torch.cat([pair_value(network, batch.to(device)).cpu() for batch in self.batches])
        error = torch.cat([batch.error for batch in self.batches])
        misaligned = torch.cat([batch.misaligned for batch in self.batches])
        known = bool(value.isfinite().all()) and float(value.std()) > 0
        rows = [self.objective(network, batch.to(device)) for batch in self.batches]
        return {
            "spearman": float(spearmanr(value, error).statistic) if known else 0.0,
            "accuracy": best_threshold(value, misaligned)[0],
            "loss": float(torch.stack([loss for loss, _ in rows]).mean()),
            "cells": float(torch.stack([figures["accuracy"] for _, figures in rows]).mean()),
        }


def pair_value(network: TwoChannelNetwork, batch: PairBatch) -> torch.Tensor:
    """The metric's value of each pair, `(N,)`: the mean probability over the mask."""
    fixed, moving = (network.prepared(image, batch.mask) for image in (batch.fixed, batch.moving))
    share = network.shares(batch.mask)
    said = network(fixed, moving).sigmoid()
    mean: torch.Tensor = (said * share).flatten(1).sum(dim=1) / share.flatten(1).sum(dim=1).clamp_min(TINY)
    return mean
