"""What the error network is taught, and checked by: the likelihood of the true error of every cell."""

import torch
from scipy.stats import spearmanr
from torch import nn

from regsim.metrics.error_network import ErrorNetwork
from regsim.training.error_features import ErrorBatch, FeatureStore

HALF = 0.5
LARGEST = 8.0


class ErrorLikelihood:
    """`objective(network, batch) -> (loss, figures)`: see `ErrorNetwork.loss`."""

    def __call__(self, network: nn.Module, batch: ErrorBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean negative log likelihood of a batch."""
        assert isinstance(network, ErrorNetwork)
        logits = network(batch.features, batch.held)
        return network.loss(logits.float(), batch.error, batch.unrelated, batch.weights), {}


class FeatureCrops:
    """`draw(size, generator)`: crops of a store, for the trainer."""

    def __init__(self, store: FeatureStore, side: int):
        self.store, self.side = store, side

    def __call__(self, size: int, generator: torch.Generator) -> ErrorBatch:
        """One batch."""
        return self.store.draw(size, self.side, generator)


class ErrorCheck:
    """`check(network) -> figures` on the pairs of validation subjects.

    - `likelihood`: the mean negative log likelihood; it decides.
    - `spearman`: rank correlation of the pairs' mean errors, predicted and true.
    - `error`: mean absolute difference of predicted and true error of cells with a true error of 8 at most.
    - `found`: share of the cells that are unrelated and are called so; `lost`: share of the others that are called so.
    """

    def __init__(self, store: FeatureStore):
        self.batches = store.whole()

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Figures of a network."""
        assert isinstance(network, ErrorNetwork)
        device = next(network.parameters()).device
        rows = [self._of(network, batch.to(device)) for batch in self.batches]
        losses, sums, means = (list(part) for part in zip(*rows, strict=True))
        total = torch.stack(sums).sum(dim=0)
        pairs = torch.cat(means).cpu()
        known = pairs[pairs.isfinite().all(dim=1)]
        rank = float(spearmanr(known[:, 0], known[:, 1]).statistic) if len(known) > 2 else 0.0
        return {
            "likelihood": float(torch.stack(losses).mean()),
            "spearman": rank,
            "error": float(total[0] / total[1].clamp_min(1)),
            "found": float(total[2] / total[3].clamp_min(1)),
            "lost": float(total[4] / total[5].clamp_min(1)),
        }

    def _of(self, network: ErrorNetwork, batch: ErrorBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss; sums over cells; predicted and true mean error of each pair, NaN where it is unrelated."""
        logits = network(batch.features, batch.held)
        loss = network.loss(logits, batch.error, batch.unrelated, batch.weights)
        said = network.errors(logits)
        related = batch.weights * (1 - batch.unrelated)
        apart, called = (said.expected - batch.error).abs(), (said.unrelated > HALF).float()
        near, strange = related * (batch.error <= LARGEST), batch.weights * batch.unrelated
        parts = (near * apart, near, strange * called, strange, related * called, related)
        axes = tuple(range(1, related.ndim))
        share = related.sum(dim=axes)
        means = [(each * related).sum(dim=axes) / share for each in (said.expected, batch.error)]
        pairs = torch.stack(means, dim=1)
        pairs[share < HALF * batch.weights.sum(dim=axes)] = torch.nan
        return loss, torch.stack([part.sum() for part in parts]), pairs
