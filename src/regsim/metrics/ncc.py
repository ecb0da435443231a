"""Normalised cross-correlation over the whole image (Pearson's correlation)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from regsim.metrics.base import AbstractMetric, combine, weighted_mean


def standardise(image: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The image with weighted mean 0 and variance 1, and which items are constant (those become 0 everywhere).

    Constant means: a standard deviation within the rounding of the largest intensity. `image`: `(M, 1, *spatial)`;
    the second result is `(M,)`, bool.
    """
    each = (-1,) + (1,) * (image.ndim - 1)
    centred = image - weighted_mean(image, weights, None).reshape(each)
    variance = weighted_mean(centred.square(), weights, None)
    rounding = 64 * torch.finfo(image.dtype).eps * image.detach().abs().flatten(1).amax(dim=1)
    constant = (variance <= rounding.square()) | (variance < torch.finfo(image.dtype).tiny)
    scale = torch.where(constant, torch.ones_like(variance), variance).rsqrt()
    return centred * torch.where(constant, torch.zeros_like(scale), scale).reshape(each), constant


@dataclass(frozen=True)
class _State:
    fixed: torch.Tensor
    weights: torch.Tensor | None
    standard: torch.Tensor
    constant: torch.Tensor


class NormalisedCrossCorrelation(AbstractMetric):
    """Pearson's correlation of all intensities: right when the two images differ by brightness and positive contrast.

    `ncc = mean(f * m)` with `f`, `m` the images brought to mean 0 and variance 1 over the mask. No unit. Range [-1, 1],
    1 = equal up to `a * x + b` with a > 0; higher is better. Map: `(f - m)^2 / 2` per voxel, whose mean is `1 - ncc`.
    A constant image, or an empty mask, gives 0 (map: 1).

    Convention:
        Signed, so an inverted contrast is the worst case (-1). Some packages (ITK's correlation) negate the value or
        square it.

    Example:
        >>> import torch
        >>> ramp = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> round(NormalisedCrossCorrelation()(ramp, 5 - 2 * ramp).item(), 4)
        -1.0

    References:
        Lewis, Fast normalized cross-correlation, Vision Interface 1995.
        Sotiras et al., Deformable medical image registration: a survey, 2013, doi:10.1109/TMI.2013.2265603.
    """

    name = "ncc"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    has_map = True
    pointwise = True

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        return _State(fixed, weights, *standardise(fixed, weights))

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        weights = combine(state.weights, overlap)
        fixed = state.standard if overlap is None else standardise(state.fixed, weights)[0]
        return weighted_mean(fixed * standardise(moving, weights)[0], weights, None)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        standard, constant = standardise(moving, state.weights)
        unknown = (constant | state.constant).reshape((-1,) + (1,) * (moving.ndim - 1))
        return torch.where(unknown, torch.ones_like(moving), (state.standard - standard).square() / 2)
