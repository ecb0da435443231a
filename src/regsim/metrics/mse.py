"""Mean squared error."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F

from regsim.metrics.base import AbstractMetric, weighted_mean

State = tuple[torch.Tensor, torch.Tensor | None]


class MeanSquaredError(AbstractMetric):
    """Mean squared difference of intensities.

    `mse = mean((fixed - moving)^2)` over the mask. Unit: squared intensity. Range [0, inf), 0 = identical; lower is
    better. One contrast only: any change of brightness counts as misalignment. Map: squared difference per voxel.

    Example:
        >>> import torch
        >>> MeanSquaredError()(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5)).item()
        0.25
    """

    name = "mse"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    has_map = True
    pointwise = True

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> State:
        return fixed, weights

    def _compare(self, state: State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        if state[1] is None and overlap is None:
            return torch.stack([F.mse_loss(there, here) for here, there in zip(state[0], moving, strict=True)])
        return weighted_mean(self._local(state, moving), state[1], overlap)

    def _local(self, state: State, moving: torch.Tensor) -> torch.Tensor:
        return (state[0] - moving).square()
