"""What a network is taught: autoencoding, segmentation, cross-entropy, cosine contrast, ranking, regression.

An objective sees a `Lookup`: the batch, and the network's answers to it, each worked out once however many objectives ask.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from regsim.errors import SettingsError
from regsim.metrics.networks import Decoder, averaged
from regsim.metrics.siamese import SiameseFeatures, SiameseNetwork
from regsim.misalign.pairs import PairBatch
from regsim.settings import Settings

LARGEST_CLASSES = 512


class Learner(nn.Module):
    """What is trained: the network that will be stored, and the decoders that only training needs.

    Args:
        network: to be stored.
        objectives: say which decoders are needed.
    """

    def __init__(self, network: SiameseNetwork, objectives: "Sequence[Objective]"):
        super().__init__()
        self.network = network
        self.decoders = nn.ModuleDict()
        for objective in objectives:
            if objective.kind in ("autoencoding", "segmentation"):
                outputs = len(objective.classes) + 1 if objective.kind == "segmentation" else 1
                self.decoders[objective.kind] = Decoder(network.settings.encoder, outputs)


class Lookup:
    """A batch and the network's answers to it."""

    def __init__(self, learner: Learner, batch: PairBatch):
        self.learner, self.network, self.batch = learner, learner.network, batch

    @cached_property
    def features(self) -> tuple[SiameseFeatures, SiameseFeatures]:
        """Of the fixed and the moving images, encoded together."""
        batch = self.batch
        both = self.network.features(torch.cat([batch.fixed, batch.moving]), torch.cat([batch.mask, batch.mask]))
        count, shape = len(batch.fixed), batch.fixed.shape[2:]
        first = SiameseFeatures([block[:count] for block in both.blocks], shape)
        return first, SiameseFeatures([block[count:] for block in both.blocks], shape)

    @cached_property
    def error(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log(1 + error): of each pair, of each cell; and the cells' share of the mask."""
        return self.network.pooled_error(*self.features, self.batch.mask)

    @cached_property
    def distance(self) -> torch.Tensor:
        """What is to grow with the true error, `(N,)`: the head's error, or `1 - cos` where the metric is that."""
        if self.network.settings.value == "cosine":
            return 1 - self.network.cosine(*self.features, self.batch.mask)
        return self.error[0]


class _Objective(Settings):
    """A term of the loss. `weight` multiplies it."""

    weight: float = Field(default=1.0, gt=0)

    @abstractmethod
    def loss(self, lookup: Lookup) -> torch.Tensor:
        """A scalar, lower = better."""


class Autoencoding(_Objective):
    """The first step of SiamRegQC: mean squared difference of each image and what the decoder makes of its features."""

    kind: Literal["autoencoding"] = "autoencoding"

    def loss(self, lookup: Lookup) -> torch.Tensor:
        """Over the images' masks."""
        batch, decoder = lookup.batch, lookup.learner.decoders["autoencoding"]
        total = torch.zeros((), device=batch.fixed.device)
        for image, features in zip((batch.fixed, batch.moving), lookup.features, strict=True):
            made = decoder(features.latent, image.shape[2:])
            total = total + ((made - image).square() * batch.mask).sum() / batch.mask.sum().clamp_min(1)
        return total / 2


class Segmentation(_Objective):
    """The labels of the fixed image from its features: cross-entropy and soft Dice in equal parts.

    Args:
        classes: the label values to tell apart; all others are background.
    """

    kind: Literal["segmentation"] = "segmentation"
    classes: tuple[int, ...] = Field(min_length=1, max_length=LARGEST_CLASSES)

    def loss(self, lookup: Lookup) -> torch.Tensor:
        """Raises SettingsError where the pairs carry no labels."""
        batch = lookup.batch
        if batch.labels is None:
            raise SettingsError("objective segmentation: the data have no label maps; name them in the manifest")
        target = torch.zeros_like(batch.labels)
        for place, value in enumerate(self.classes, start=1):
            target[batch.labels == value] = place
        said = lookup.learner.decoders["segmentation"](lookup.features[0].latent, batch.fixed.shape[2:])
        truth = F.one_hot(target[:, 0], len(self.classes) + 1).movedim(-1, 1).to(said.dtype)
        axes = (0, *range(2, said.ndim))
        share = said.softmax(dim=1)
        overlap = (2 * (share * truth).sum(dim=axes) + 1) / (share.sum(dim=axes) + truth.sum(dim=axes) + 1)
        loss: torch.Tensor = F.cross_entropy(said, target[:, 0]) + 1 - overlap.mean()
        return loss


class CrossEntropy(_Objective):
    """Aligned (0) or misaligned (1), from the dense head's two outputs.

    Convention:
        The paper's public network ends in a softmax and is given to a cross-entropy that applies another: its loss cannot
        fall below 0.3133. Here the loss sees the outputs as they are.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"

    def loss(self, lookup: Lookup) -> torch.Tensor:
        """Mean over the batch."""
        logits = lookup.network.logits(*lookup.features)
        return F.cross_entropy(logits, lookup.batch.misaligned.long())


class CosineContrast(_Objective):
    """Features of aligned pairs together, of misaligned pairs apart: `l (1 - cos)^2 + (1 - l) max(0, cos - margin)^2`.

    Convention:
        SiamRegQC's Eq. 2 with l = 1 for ALIGNED pairs. The paper prints aligned = 0, with which the same equation drives
        aligned pairs to cos = 0 and misaligned ones to 1, the opposite of its metric (Eq. 4). `as_printed = true` does
        that, to show it.

    Args:
        margin: the cosine that misaligned pairs need not fall below; 0 as printed, 0.5 in the paper's experiments.
        as_printed: l = 1 for misaligned pairs.
    """

    kind: Literal["cosine_contrast"] = "cosine_contrast"
    margin: float = Field(default=0.5, ge=0, lt=1)
    as_printed: bool = False

    def loss(self, lookup: Lookup) -> torch.Tensor:
        """Mean over the batch."""
        cosine = lookup.network.cosine(*lookup.features)
        return self.of_cosine(cosine, lookup.batch.misaligned)

    def of_cosine(self, cosine: torch.Tensor, misaligned: torch.Tensor) -> torch.Tensor:
        """The loss at given cosines."""
        together = misaligned if self.as_printed else ~misaligned
        apart = (cosine - self.margin).clamp_min(0).square()
        loss: torch.Tensor = torch.where(together, (1 - cosine).square(), apart).mean()
        return loss


class Ranking(_Objective):
    """Pairs in the order of their true errors: over all two pairs of a batch, `log(1 + exp(-s (d_i - d_j)))`, e_i > e_j.

    Args:
        scale: s, how fast a wrong order costs.
        least: differences of log(1 + error) below this have no order.
    """

    kind: Literal["ranking"] = "ranking"
    scale: float = Field(default=4.0, gt=0)
    least: float = Field(default=0.1, ge=0)

    def loss(self, lookup: Lookup) -> torch.Tensor:
        """Mean over the ordered two."""
        wanted = torch.log1p(lookup.batch.error)
        order = wanted[:, None] - wanted[None]
        found = lookup.distance[:, None] - lookup.distance[None]
        counts = (order > self.least).to(found.dtype)
        return (F.softplus(-self.scale * found) * counts).sum() / counts.sum().clamp_min(1)


class Regression(_Objective):
    """log(1 + true error) of each pair, by the smooth absolute difference (quadratic below `beta`)."""

    kind: Literal["regression"] = "regression"
    beta: float = Field(default=0.1, gt=0)

    def loss(self, lookup: Lookup) -> torch.Tensor:
        """Mean over the batch."""
        return F.smooth_l1_loss(lookup.error[0], torch.log1p(lookup.batch.error), beta=self.beta)


class LocalRegression(_Objective):
    """log(1 + true error) of each cell of the feature grid: the mean absolute difference where there is anatomy."""

    kind: Literal["local_regression"] = "local_regression"

    def loss(self, lookup: Lookup) -> torch.Tensor:
        """Mean over the cells, weighted by their share of the content."""
        found = lookup.error[1]
        length = torch.log1p(lookup.batch.displacement.norm(dim=1, keepdim=True))
        wanted = averaged(length, found.shape[2:])
        share = averaged(lookup.batch.content, found.shape[2:])
        return ((found - wanted).abs() * share).sum() / share.sum().clamp_min(1e-6)


Objective = Annotated[
    Autoencoding | Segmentation | CrossEntropy | CosineContrast | Ranking | Regression | LocalRegression,
    Field(discriminator="kind"),
]


class Objectives:
    """A weighted sum of objectives: what the training loop calls."""

    def __init__(self, terms: Sequence[Objective]):
        self.terms = tuple(terms)

    def __call__(self, network: nn.Module, batch: PairBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and each term by its name."""
        if not isinstance(network, Learner):
            raise SettingsError(f"objectives are for a Learner, got {type(network).__name__}")
        lookup = Lookup(network, batch)
        figures: dict[str, torch.Tensor] = {term.kind: term.loss(lookup) for term in self.terms}
        total = torch.stack([term.weight * figures[term.kind] for term in self.terms]).sum()
        return total, figures
