"""Local normalised cross-correlation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from regsim.errors import SettingsError
from regsim.kernels.box import box, box_sum, runs_compiled
from regsim.metrics.base import AbstractMetric, weighted_mean
from regsim.metrics.ncc import standardise

if TYPE_CHECKING:
    from regsim.kernels.cpu.local_similarity import FixedHalf

_FLOOR = 1e-4
"""Smallest local variance, as a part of the image's own variance: windows flatter than this count as flat."""


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    share: torch.Tensor  # 1 / sum of weights in each window
    weighted: torch.Tensor  # weights * fixed
    mean: torch.Tensor
    variance: torch.Tensor


@dataclass(frozen=True)
class _CompiledState:
    fixed: torch.Tensor
    weights: torch.Tensor | None
    half: "FixedHalf"


class LocalNormalisedCrossCorrelation(AbstractMetric):
    """Squared correlation in a window around each voxel, averaged: the standard driver within one contrast.

    `cc^2 = cov(f, m)^2 / (var(f) * var(m))` over a box of `window` voxels a side; value = mean of cc^2 over the mask.
    No unit. Range [0, 1], 1 = locally equal up to brightness and (also negative) contrast; higher is better. Map: `1 -
    cc^2`. Windows at the border and at the mask's edge hold fewer voxels and are averaged over those.

    Flat windows: a local variance below 1e-4 of the image's own (1 % of its standard deviation) is raised to that, so
    flat noiseless background gives cc^2 = 0 with a gradient that stays small. A constant image, or an empty mask, gives
    0.

    Convention:
        "LNCC" is used for cc and for cc^2; this is cc^2, as in ANTs, VoxelMorph and MONAI (whose losses are negated).
        The box is rectangular; elastix and NiftyReg use Gaussian weights. Peers zero-pad at the border; here the window
        shrinks.

    Args:
        window: voxels a side, odd, at least 3.

    Raises:
        SettingsError: an even or too small window.

    Example:
        >>> import torch
        >>> ramp = torch.arange(25.0).reshape(1, 1, 5, 5)
        >>> round(LocalNormalisedCrossCorrelation(window=3)(ramp, 7 - ramp).item(), 4)
        1.0

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, 2008,
        doi:10.1016/j.media.2007.06.004.
    """

    name = "lncc"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    multimodal = True
    has_map = True

    def __init__(self, window: int = 9):
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise SettingsError(f"lncc: window must be an odd number of voxels, at least 3, got {window}")
        self.radius = window // 2

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State | _CompiledState:
        if not runs_compiled(fixed, weights):
            return self._bind_tensors(fixed, weights)
        from regsim.kernels.cpu.local_similarity import bind_correlation

        return _CompiledState(fixed, weights, bind_correlation(fixed, weights, box(self.radius), _FLOOR))

    def _bind_tensors(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        ones = fixed.new_ones((1, 1, *fixed.shape[2:]))
        held = box_sum(ones if weights is None else weights, self.radius)
        share = torch.where(held > 0, held, torch.ones_like(held)).reciprocal() * (held > 0)
        standard = standardise(fixed, weights)[0]
        weighted = _times(standard, weights)
        mean = box_sum(weighted, self.radius) * share
        variance = box_sum(weighted * standard, self.radius) * share - mean.square()
        return _State(weights, share, weighted, mean, variance.clamp_min(_FLOOR))

    def _compare(
        self, state: _State | _CompiledState, moving: torch.Tensor, overlap: torch.Tensor | None
    ) -> torch.Tensor:
        if isinstance(state, _State):
            return weighted_mean(self._squared(state, moving), state.weights, overlap)
        from regsim.kernels.cpu.local_similarity import compare

        return compare(moving, state.half, overlap)

    def _local(self, state: _State | _CompiledState, moving: torch.Tensor) -> torch.Tensor:
        if isinstance(state, _CompiledState):
            state = self._bind_tensors(state.fixed, state.weights)
        return 1 - self._squared(state, moving)

    def _squared(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        """cc^2 of each voxel's window."""
        standard = standardise(moving, state.weights)[0]
        weighted = _times(standard, state.weights)
        mean = box_sum(weighted, self.radius) * state.share
        square = box_sum(weighted * standard, self.radius) * state.share
        product = box_sum(state.weighted * standard, self.radius) * state.share
        covariance = product - state.mean * mean
        return covariance.square() / (state.variance * (square - mean.square()).clamp_min(_FLOOR))


def _times(image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return image if weights is None else image * weights
