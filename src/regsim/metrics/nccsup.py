"""Local correlation with the labels' help: DeepSim's supervised baseline."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from regsim.errors import SettingsError
from regsim.metrics.base import AbstractMetric, combine
from regsim.metrics.lncc import LocalNormalisedCrossCorrelation

WINDOW = 9


@dataclass(frozen=True)
class _State:
    grey: Any
    labels: torch.Tensor
    weights: torch.Tensor | None


class SupervisedCorrelation(AbstractMetric):
    """Squared correlation in a window around each voxel, plus the overlap of label maps that come along as channels.

    Images are `(N, 1 + K, *spatial)`: the first channel holds grey values, each other one a label, 1 inside and 0 outside,
    or a share between (`regsim.prepare.with_label_channels` makes them). `value = lncc + weight * dice`: `lncc` is the mean
    of `cc^2` over windows of the grey values, as the metric of that name; `dice` is the mean over the labels present of
    `2 sum(a b) / sum(a^2 + b^2)`, a and b the label's channels in the two images, sums over the mask. No unit. Range
    [0, 1 + weight]; higher is better. With one channel it is `lncc` alone.

    A label is present where either image shows it within mask and overlap; without any, `dice` is 0. Values of label
    channels are clipped to [0, 1]. Map: `1 - cc^2`, plus `weight` times the mean absolute difference of the label channels.

    Convention:
        DeepSim's text says "NCC using supervised information" and no more. Its public code adds the mean squared
        difference of the one-hot label maps, background included, to `1 - NCC`, both with weight 1 and a window of 9; the
        correlation is squared in one variant and signed in the other. Here it is squared, as in the tables of its
        repository. Dice takes the place of the squared difference, which grows with a label's share of the image: a small
        structure would not be felt. The squares below the line make Dice 1 for equal labels even where they are soft, as
        they are at coarse levels; for labels of 0 and 1 it is the usual one.

    Args:
        window: voxels a side, odd, at least 3.
        weight: of the labels, 0 or more.

    Raises:
        SettingsError: an even or too small window; a weight that is negative or not finite.

    Example:
        >>> import torch
        >>> grey, label = torch.arange(36.0).reshape(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)
        >>> label[..., :3] = 1
        >>> fixed, moving = torch.cat([grey, label], dim=1), torch.cat([5 - grey, label.roll(1, -1)], dim=1)
        >>> round(SupervisedCorrelation(window=3)(fixed, moving).item(), 4)
        1.6667

    References:
        Czolbe et al., DeepSim: semantic similarity metrics for learned image registration, 2021 and 2023,
        doi:10.1016/j.media.2023.102830.
    """

    name = "nccsup"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    multimodal = True
    has_map = True
    joint = True

    def __init__(self, window: int = WINDOW, weight: float = 1.0):
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise SettingsError(f"nccsup: window must be an odd number of voxels, at least 3, got {window}")
        if not (math.isfinite(weight) and weight >= 0):
            raise SettingsError(f"nccsup: weight must be 0 or more, got {weight}")
        self.grey, self.weight = LocalNormalisedCrossCorrelation(window), float(weight)

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        return _State(self.grey._bind(_grey(fixed), weights), _labels(fixed), weights)

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        value = self.grey._compare(state.grey, _grey(moving), overlap)
        if moving.shape[1] == 1:
            return value
        return value + self.weight * mean_dice(state.labels, _labels(moving), combine(state.weights, overlap))

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        local = self.grey._local(state.grey, _grey(moving))
        if moving.shape[1] == 1:
            return local
        return local + self.weight * (state.labels - _labels(moving)).abs().mean(dim=1, keepdim=True)


def mean_dice(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Mean over the labels present of the soft Dice of `(N, K, *spatial)` channels in [0, 1]: `(N,)`, 0 where none is.

    Args:
        first, second: the labels of the two images.
        weights: `(N, 1, *spatial)` or None.

    Example:
        >>> one, other = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]])
        >>> round(mean_dice(one, other, None).item(), 4)
        0.6667
    """
    shares = torch.ones_like(first[:, :1]) if weights is None else weights
    common = (first * second * shares).flatten(2).sum(dim=2)
    together = ((first.square() + second.square()) * shares).flatten(2).sum(dim=2)
    present = together > 0
    dice = 2 * common / torch.where(present, together, torch.ones_like(together))
    mean: torch.Tensor = dice.sum(dim=1) / present.sum(dim=1).clamp_min(1)
    return mean


def _grey(image: torch.Tensor) -> torch.Tensor:
    return image[:, :1].contiguous()


def _labels(image: torch.Tensor) -> torch.Tensor:
    return image[:, 1:].clamp(0, 1)
