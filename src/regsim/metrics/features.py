"""Metrics that compare features of two images, not their grey values: what they share, and features as images."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from regsim.metrics.base import AbstractMetric, combine, weighted_mean
from regsim.metrics.learned import LearnedMetric
from regsim.metrics.matching_probability import halved, matching_probability, usable_scales
from regsim.metrics.networks import averaged

TINY = 1e-6
Maps = Sequence[torch.Tensor]


@dataclass(frozen=True)
class _State:
    maps: list[torch.Tensor]
    shares: list[torch.Tensor] | None
    weights: torch.Tensor | None


@dataclass(frozen=True)
class Companion:
    """A metric that sees warped images, and the pull of carried features as a share of its own."""

    metric: AbstractMetric
    share: float


class FeatureMetric(LearnedMetric):
    """Mean cosine of two images' feature vectors, averaged over levels: `1/L sum_l mean_x cos(f_l(x), m_l(x))`.

    Or, where `matching`, the mean probability that the finest level's vectors match where they lie, among places one and two
    cells away (`matching_probability`), averaged over cells of 1, 2 and 4 voxels.

    Subclasses give `maps`. `before_warping` says that a registration may take the features once and warp them (`dense`),
    in place of taking them anew from every warped image.
    """

    costly: ClassVar[bool] = True
    before_warping: bool = False
    matching: bool = False

    @abstractmethod
    def maps(self, image: torch.Tensor, weights: torch.Tensor | None) -> list[torch.Tensor]:
        """Feature maps of `(M, 1, *spatial)`, one `(M, C, *cells)` a level, finest first; `weights` alike or None."""

    def own_maps(self, image: torch.Tensor, weights: torch.Tensor | None) -> list[torch.Tensor]:
        """As `maps`, without what `companion` compares."""
        return self.maps(image, weights)

    def companion(self) -> Companion | None:
        """What a deformable registration compares on the warped image itself, beside the carried features; None: nothing."""
        return None

    def dense(self, image: torch.Tensor, weights: torch.Tensor | None = None, whole: bool = True) -> torch.Tensor:
        """All levels on the image's own grid, `(M, C, *spatial)`; not `whole`: without what the companion compares.

        Each level's vectors have the length `sqrt(1 / L)`, so half the squared distance of two images' vectors is
        1 - value, up to the interpolation of coarse levels.
        """
        maps = self.maps if whole else self.own_maps
        found = [directions(each) for each in maps(image, weights)]
        full = [_to_shape(each, image.shape[2:]) for each in found]
        together: torch.Tensor = torch.cat([directions(each) for each in full], dim=1) / math.sqrt(len(full))
        return together

    def cosines(
        self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The cosine of every cell of every level, `(N, 1, *cells)` each, finest first; images `(N, 1, *spatial)`."""
        self(fixed, moving, mask)  # checks what it is given
        weights = None if mask is None else mask.to(fixed).expand(fixed.shape[0], *mask.shape[1:])
        if weights is not None:
            fixed, moving = (torch.where(weights > 0, image, torch.zeros_like(image)) for image in (fixed, moving))
        pairs = zip(self.maps(fixed, weights), self.maps(moving, weights), strict=True)
        return [cosine(directions(first), second) for first, second in pairs]

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        found = [directions(each) for each in self.maps(fixed, weights)]
        return _State(found, None if weights is None else _shares(weights, found), weights)

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        if self.matching:
            return self._matching(state, moving, overlap)
        values = []
        shares = state.shares
        if overlap is not None:
            together = combine(state.weights, overlap)
            assert together is not None
            shares = _shares(together, state.maps)
        for level, found in enumerate(self.maps(moving, state.weights)):
            share = None if shares is None else shares[level]
            values.append(weighted_mean(cosine(state.maps[level], found), share, None))
        return torch.stack(values).mean(dim=0)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        if self.matching:
            seen = torch.ones_like(moving) if state.weights is None else state.weights
            found = [_to_shape(1 - local, moving.shape[2:]) for _, local in self._probabilities(state, moving, seen)]
            return torch.stack(found).mean(dim=0)
        found = self.maps(moving, state.weights)
        apart = [1 - cosine(fixed, other) for fixed, other in zip(state.maps, found, strict=True)]
        return torch.stack([_to_shape(each, moving.shape[2:]) for each in apart]).mean(dim=0)

    def _matching(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        """The mean probability of a match over places, then over the scales that the images allow."""
        together = combine(state.weights, overlap)
        seen = torch.ones_like(moving) if together is None else together
        values = []
        for times, local in self._probabilities(state, moving, seen):
            values.append(weighted_mean(local, halved(seen, times), None))
        return torch.stack(values).mean(dim=0)

    def _probabilities(
        self, state: _State, moving: torch.Tensor, seen: torch.Tensor
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The scales, and the map of probabilities at each."""
        other = directions(self.maps(moving, state.weights)[0])
        first, second = (_to_shape(each, moving.shape[2:]) for each in (state.maps[0], other))
        for times in usable_scales(moving.shape[2:]):
            parts = [halved(each, times) for each in (first, second, seen)]
            yield times, matching_probability(*parts)


class FeatureDistance(AbstractMetric):
    """Half the mean squared distance of feature vectors, `mean_x |f(x) - m(x)|^2 / 2`: of unit vectors, 1 - their cosine.

    It compares images whose channels are features already; channels are compared together. Not in the registry: the
    driver uses it for metrics whose features are taken before the warp. Range [0, inf); lower is better.

    Example:
        >>> ahead, aside = torch.eye(2).reshape(2, 1, 2, 1, 1).unbind(0)
        >>> FeatureDistance()(ahead, aside).item()
        1.0
    """

    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    multimodal = True
    has_map = True
    pointwise = True
    joint = True

    def __init__(self, name: str = "feature_distance"):
        super().__init__()
        self.name = name  # type: ignore[misc]  # the log names the metric whose features these are

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return fixed, weights

    def _compare(
        self, state: tuple[torch.Tensor, torch.Tensor | None], moving: torch.Tensor, overlap: torch.Tensor | None
    ) -> torch.Tensor:
        return weighted_mean(self._local(state, moving), state[1], overlap)

    def _local(self, state: tuple[torch.Tensor, torch.Tensor | None], moving: torch.Tensor) -> torch.Tensor:
        return 0.5 * (state[0] - moving).square().sum(dim=1, keepdim=True)


def directions(features: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1 along the channels; a vector of zeros stays 0."""
    return features / (features.square().sum(dim=1, keepdim=True) + TINY**2).sqrt()


def cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """`(M, 1, *cells)`: of directions and any vectors; two vectors of zeros agree (1)."""
    other = directions(second)
    empty = (first.square().sum(dim=1, keepdim=True) == 0) & (other.square().sum(dim=1, keepdim=True) == 0)
    return (first * other).sum(dim=1, keepdim=True) + empty.to(first)


def _shares(weights: torch.Tensor, maps: Maps) -> list[torch.Tensor]:
    """The weights on the cells of each level: their mean in each cell."""
    return [weights if each.shape[2:] == weights.shape[2:] else averaged(weights, each.shape[2:]) for each in maps]


def _to_shape(cells: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if cells.shape[2:] == shape:
        return cells
    mode = "bilinear" if cells.ndim == 4 else "trilinear"
    return F.interpolate(cells, size=list(shape), mode=mode, align_corners=False)
