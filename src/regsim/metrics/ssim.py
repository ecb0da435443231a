"""Structural similarity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from regsim.errors import SettingsError
from regsim.kernels.box import box, box_sum, gaussian, gaussian_sum, runs_compiled
from regsim.metrics.base import AbstractMetric, extremes, weighted_mean

if TYPE_CHECKING:
    from regsim.kernels.cpu.local_similarity import FixedHalf


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    share: torch.Tensor  # 1 / sum of weights in each window
    centre: torch.Tensor  # subtracted from both images, so that variances keep their digits
    fixed: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    c1: torch.Tensor
    c2: torch.Tensor


@dataclass(frozen=True)
class _CompiledState:
    fixed: torch.Tensor
    weights: torch.Tensor | None
    half: "FixedHalf"


class StructuralSimilarity(AbstractMetric):
    """Luminance, contrast and structure of local windows, multiplied and averaged.

    `ssim = (2 a b + c1) (2 cov + c2) / ((a^2 + b^2 + c1) (var_f + var_m + c2))`, with a, b the local means, `c1 = (k1
    L)^2`, `c2 = (k2 L)^2` and L the data range; value = mean over the mask. No unit. Range [-1, 1], 1 = identical;
    higher is better. Map: `1 - ssim`. Windows at the border and at the mask's edge are averaged over the voxels they
    hold.

    Convention:
        L matters: 8-bit pictures use 255. By default L is the fixed image's maximum minus minimum within the mask (of
        each item and channel), which makes the value unsymmetric: give `data_range` to compare across images. A
        constant fixed image has no range; L is then 1. Variances are those of the window (divided by n), as Wang's;
        scikit-image divides by n - 1 unless told otherwise. A volume uses 3-D windows, not slices. An empty mask gives
        0.

    Args:
        window: "gaussian" (sigma 1.5, cut at 3.5 sigma: 11 voxels) or "uniform".
        sigma: of the Gaussian, in voxels.
        size: of the uniform window, in voxels, odd.
        k1: of the luminance term.
        k2: of the contrast term.
        data_range: L; default from the fixed image.

    Raises:
        SettingsError: a setting out of its range.

    Example:
        >>> import torch
        >>> dark = torch.full((1, 1, 4, 4), 0.25)
        >>> round(StructuralSimilarity(data_range=1.0)(dark, 3 * dark).item(), 4)
        0.6001

    References:
        Wang et al., Image quality assessment: from error visibility to structural similarity, 2004,
        doi:10.1109/TIP.2003.819861.
    """

    name = "ssim"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    symmetric = False
    has_map = True

    def __init__(
        self,
        window: Literal["gaussian", "uniform"] = "gaussian",
        sigma: float = 1.5,
        size: int = 7,
        k1: float = 0.01,
        k2: float = 0.03,
        data_range: float | None = None,
    ):
        super().__init__()
        if window not in ("gaussian", "uniform"):
            raise SettingsError(f"ssim: window must be 'gaussian' or 'uniform', got '{window}'")
        if size < 3 or size % 2 == 0:
            raise SettingsError(f"ssim: size must be an odd number of voxels, at least 3, got {size}")
        for name, value in (("sigma", sigma), ("k1", k1), ("k2", k2), ("data_range", data_range)):
            if value is not None and value <= 0:
                raise SettingsError(f"ssim: {name} must be positive, got {value}")
        self.window, self.sigma, self.size = window, sigma, size
        self.k1, self.k2, self.data_range = k1, k2, data_range

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State | _CompiledState:
        if not runs_compiled(fixed, weights):
            return self._bind_tensors(fixed, weights)
        from regsim.kernels.cpu.local_similarity import bind_structure

        half = bind_structure(fixed, weights, self._half(), self.k1, self.k2, self.data_range)
        return _CompiledState(fixed, weights, half)

    def _bind_tensors(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        each = (-1,) + (1,) * (fixed.ndim - 1)
        held = self._sum(fixed.new_ones((1, 1, *fixed.shape[2:])) if weights is None else weights)
        share = torch.where(held > 0, held, torch.ones_like(held)).reciprocal() * (held > 0)
        centre = weighted_mean(fixed, weights, None).reshape(each).detach()
        span = self._range(fixed, weights).reshape(each)
        shifted = fixed - centre
        mean, variance = self._moments(shifted, weights, share)
        return _State(weights, share, centre, shifted, mean, variance, (self.k1 * span) ** 2, (self.k2 * span) ** 2)

    def _compare(
        self, state: _State | _CompiledState, moving: torch.Tensor, overlap: torch.Tensor | None
    ) -> torch.Tensor:
        if isinstance(state, _State):
            return weighted_mean(self._similarity(state, moving), state.weights, overlap)
        from regsim.kernels.cpu.local_similarity import compare

        return compare(moving, state.half, overlap)

    def _local(self, state: _State | _CompiledState, moving: torch.Tensor) -> torch.Tensor:
        if isinstance(state, _CompiledState):
            state = self._bind_tensors(state.fixed, state.weights)
        return 1 - self._similarity(state, moving)

    def _similarity(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        """SSIM of each voxel's window."""
        shifted = moving - state.centre
        mean, variance = self._moments(shifted, state.weights, state.share)
        product = self._sum(_times(shifted * state.fixed, state.weights)) * state.share
        covariance = product - mean * state.mean
        a, b = state.mean + state.centre, mean + state.centre
        structure = (2 * covariance + state.c2) / (variance + state.variance + state.c2)
        return structure * (2 * a * b + state.c1) / (a.square() + b.square() + state.c1)

    def _moments(
        self, image: torch.Tensor, weights: torch.Tensor | None, share: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        weighted = _times(image, weights)
        mean = self._sum(weighted) * share
        return mean, (self._sum(weighted * image) * share - mean.square()).clamp_min(0)

    def _sum(self, image: torch.Tensor) -> torch.Tensor:
        return box_sum(image, self.size // 2) if self.window == "uniform" else gaussian_sum(image, self.sigma)

    def _half(self) -> tuple[float, ...]:
        """The window, from its centre outwards."""
        return box(self.size // 2) if self.window == "uniform" else gaussian(self.sigma)

    def _range(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """The data range of each item, `(M,)`."""
        if self.data_range is not None:
            return fixed.new_full((fixed.shape[0],), self.data_range)
        low, high = extremes(fixed, weights)
        span = high - low
        return torch.where(span > 0, span, torch.ones_like(span))


def _times(image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return image if weights is None else image * weights
