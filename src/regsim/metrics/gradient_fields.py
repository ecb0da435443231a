"""Normalised gradient fields."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from regsim.errors import SettingsError
from regsim.metrics.base import AbstractMetric, weighted_mean

_TINY = 1e-30
"""Keeps the normal of a constant image, 0 / 0, at 0."""


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    normals: torch.Tensor


class NormalisedGradientFields(AbstractMetric):
    """Are edges parallel? Compares the direction of gradients, whatever their sign and strength.

    `n = grad / sqrt(|grad|^2 + e^2)` in both images; value = `mean(1 - <n_f, n_m>^2)` over the mask. No unit. Range [0,
    1]; lower is better. Map: `1 - <n_f, n_m>^2`. Gradients are central differences in voxels, one-sided where a
    neighbour lies outside the image or the mask, and 0 where both do. The edge parameter of each image is `e = edge *
    mean(|grad|)` over the mask: weaker gradients count as noise.

    Convention:
        1 where either image is flat, so identical images do not reach 0. Haber and Modersitzki integrate over
        millimetres and also offer the cross product; the mean over voxels makes values comparable across sizes. An
        empty mask gives 0, a constant image 1.

    Args:
        edge: the edge parameter as a multiple of the mean gradient.

    Raises:
        SettingsError: `edge` is not positive.

    Example:
        >>> import torch
        >>> ramp = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> round(NormalisedGradientFields()(ramp, 1 - ramp).item(), 4)
        0.75

    References:
        Haber and Modersitzki, Intensity gradient based registration and fusion, 2006, doi:10.1007/11866763_89.
    """

    name = "ngf"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    multimodal = True
    has_map = True

    def __init__(self, edge: float = 1.0):
        super().__init__()
        if edge <= 0:
            raise SettingsError(f"ngf: edge must be positive, got {edge}")
        self.edge = edge

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        return _State(weights, self._normals(fixed, weights))

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        return weighted_mean(self._local(state, moving), state.weights, overlap)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        normals = self._normals(moving, state.weights)
        return 1 - (state.normals * normals).sum(dim=1, keepdim=True).square()

    def _normals(self, image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Gradient over its regularised length, `(M, axes, *spatial)`."""
        gradient = torch.cat([_slope(image, weights, axis) for axis in range(2, image.ndim)], dim=1)
        square = gradient.square().sum(dim=1, keepdim=True)
        mean = weighted_mean((square + _TINY).sqrt(), weights, None)
        noise = (self.edge * mean).square().reshape((-1,) + (1,) * (image.ndim - 1))
        return gradient / (square + noise + _TINY).sqrt()


def _slope(image: torch.Tensor, weights: torch.Tensor | None, axis: int) -> torch.Tensor:
    """Mean of the forward and backward difference, each weighted by the neighbour it needs."""
    inside = image.new_ones((1, 1, *image.shape[2:])) if weights is None else weights
    rest = image.shape[axis] - 1
    before, after = inside.narrow(axis, 0, rest), inside.narrow(axis, 1, rest)
    step = image.narrow(axis, 1, rest) - image.narrow(axis, 0, rest)
    edge = torch.zeros_like(image.narrow(axis, 0, 1))
    total = torch.cat((step * after, edge), dim=axis) + torch.cat((edge, step * before), dim=axis)
    rim = torch.zeros_like(inside.narrow(axis, 0, 1))
    held = torch.cat((after, rim), dim=axis) + torch.cat((rim, before), dim=axis)
    return total / torch.where(held > 0, held, torch.ones_like(held))
