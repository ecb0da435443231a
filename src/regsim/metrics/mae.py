"""Mean absolute error."""

import math
from typing import ClassVar

import torch

from regsim.metrics.base import AbstractMetric, weighted_mean

State = tuple[torch.Tensor, torch.Tensor | None]


class MeanAbsoluteError(AbstractMetric):
    """Mean absolute difference of intensities.

    `mae = mean(|fixed - moving|)` over the mask. Unit: intensity. Range [0, inf), 0 = identical; lower is better. One
    contrast only, less swayed by outliers than the squared error. Map: absolute difference per voxel. Where the images
    are equal the gradient is 0.

    Example:
        >>> import torch
        >>> MeanAbsoluteError()(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)).item()
        0.5
    """

    name = "mae"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    has_map = True
    pointwise = True

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> State:
        return fixed, weights

    def _compare(self, state: State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        return weighted_mean(self._local(state, moving), state[1], overlap)

    def _local(self, state: State, moving: torch.Tensor) -> torch.Tensor:
        return (state[0] - moving).abs()
