"""What a network of `patch_likelihood` is taught, and checked by: whether two patches show the same place."""

import torch
import torch.nn.functional as F
from torch import nn

from regsim.metrics.networks import CHANNELS_LAST
from regsim.misalign.patch_pairs import PatchBatch, PatchPairMaker
from regsim.training.checks import drawn


class PatchCrossEntropy:
    """`objective(network, batch) -> (loss, figures)`: cross-entropy of "same place"; `accuracy`: the share that is called right.

    Both kinds are equally frequent, so the network's answer becomes the logarithm of the likelihood ratio.
    """

    def __call__(self, network: nn.Module, batch: PatchBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and its figures."""
        logits = _logits(network, batch)
        loss = F.binary_cross_entropy_with_logits(logits, batch.same.to(logits))
        return loss, {"accuracy": ((logits > 0) == batch.same).float().mean().detach()}


class PatchCheck:
    """`check(network) -> figures` on patches of the validation pairs, always the same ones: `accuracy` and `loss`.

    Args:
        maker: cuts the patches.
        count: how many.
        seed: of the patches.
    """

    def __init__(self, maker: PatchPairMaker, count: int, seed: int):
        self.batches = drawn(maker, count, seed)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Figures of a network; see the class."""
        device = next(network.parameters()).device
        logits, same = [], []
        for batch in (each.to(device) for each in self.batches):
            logits.append(_logits(network, batch))
            same.append(batch.same)
        said, truth = torch.cat(logits), torch.cat(same)
        return {
            "accuracy": float(((said > 0) == truth).float().mean()),
            "loss": float(F.binary_cross_entropy_with_logits(said, truth.to(said))),
        }


def _logits(network: nn.Module, batch: PatchBatch) -> torch.Tensor:
    order = CHANNELS_LAST[batch.fixed.ndim]
    fixed, moving = (image.contiguous(memory_format=order) for image in (batch.fixed, batch.moving))
    logits: torch.Tensor = network(fixed, moving).float()
    return logits
