"""Mutual information and its normalised form, from one joint histogram."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from regsim.errors import SettingsError
from regsim.kernels.histogram import joint_histogram, look_up
from regsim.metrics.base import AbstractMetric, combine, extremes


@dataclass(frozen=True)
class _State:
    weights: torch.Tensor | None
    positions: torch.Tensor  # of the fixed image, in bins, (M, V)


class AbstractHistogramMetric(AbstractMetric):
    """What both have in common: intensities as positions in bins, and the joint histogram of a pair.

    Each image's range (minimum to maximum within the mask, of each item; for the moving image within mask and overlap,
    and held constant in the gradient) is laid on the positions 1 to bins - 2, so that no window leaves the histogram.
    """

    multimodal = True
    pointwise = True

    def __init__(self, bins: int = 32):
        super().__init__()
        if bins < 5:
            raise SettingsError(f"{self.name}: bins must be at least 5, got {bins}")
        self.bins = bins

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        return _State(weights, self._positions(fixed, weights))

    def _entropies(
        self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """H(fixed), H(moving) and H(fixed, moving) in nats, each `(M,)` in float64; all 0 where nothing is seen."""
        joint = self._joint(state, self._positions(moving, combine(state.weights, overlap)), overlap)
        return _entropy(joint.sum(dim=2)), _entropy(joint.sum(dim=1)), _entropy(joint.flatten(1))

    def _joint(self, state: _State, positions: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        """Joint probabilities, `(M, bins, bins)` in float64."""
        weights = combine(state.weights, overlap)
        flat = torch.ones_like(positions) if weights is None else weights.expand(positions.shape[0], *weights.shape[1:])
        counts = joint_histogram(state.positions, positions, flat.reshape(positions.shape), self.bins)
        total = counts.sum(dim=(1, 2), keepdim=True)
        return counts / torch.where(total > 0, total, torch.ones_like(total))

    def _positions(self, image: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        flat = image.flatten(1)
        low, high = (bound.unsqueeze(1) for bound in extremes(image.detach(), weights))
        span = high - low
        slope = torch.where(span > 0, (self.bins - 3) / torch.where(span > 0, span, torch.ones_like(span)), 0.0)
        return 1 + ((flat - low) * slope).clamp(0, self.bins - 3)


class MutualInformation(AbstractHistogramMetric):
    """How much one image's intensities tell about the other's: the classical metric between contrasts.

    `mi = H(F) + H(M) - H(F, M)`, entropies of the joint histogram with cubic B-spline windows on both images. Unit:
    nats. Range [0, log(bins)], 0 = independent; higher is better. Map: minus the pointwise mutual information
    `-E[log(p(f, m) / (p(f) p(m)))]` under each voxel's windows, in nats, whose mean is `-mi`. A constant image, or an
    empty mask, gives 0.

    Convention:
        In nats (log2 gives bits: divide by 0.6931). The windows spread every voxel over 4 x 4 bins, so `mi(a, a)` stays
        below `H(a)`, and values depend on `bins`. Mattes' form uses one bin, not a spline, for the fixed image; it is
        slightly higher and not symmetric. All voxels count (no random subset), so the value is the same at every call.

    Args:
        bins: of each image, at least 5.

    Raises:
        SettingsError: too few bins.

    Example:
        >>> import torch
        >>> halves = torch.tensor([0.0, 1.0]).repeat(8).reshape(1, 1, 4, 4)
        >>> round(MutualInformation()(halves, 1 - halves).item(), 4)
        0.6931

    References:
        Viola and Wells, 1997, doi:10.1023/A:1007958904918. Mattes et al., 2003, doi:10.1109/TMI.2003.809072.
        Thevenaz and Unser, 2000, doi:10.1109/83.887976.
    """

    name = "mi"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    unit = "nats"
    has_map = True

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        fixed_entropy, moving_entropy, joint_entropy = self._entropies(state, moving, overlap)
        return (fixed_entropy + moving_entropy - joint_entropy).to(moving.dtype)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        positions = self._positions(moving, state.weights)
        joint = self._joint(state, positions, None)
        apart = joint.sum(dim=2, keepdim=True) * joint.sum(dim=1, keepdim=True)
        seen = joint > 0
        ratio = torch.where(seen, joint, torch.ones_like(joint)) / torch.where(seen, apart, torch.ones_like(joint))
        return -look_up(state.positions, positions, ratio.log()).reshape(moving.shape)


class NormalisedMutualInformation(AbstractHistogramMetric):
    """Mutual information that does not reward a change of overlap.

    `nmi = (H(F) + H(M)) / H(F, M)`, from the same histogram as `mi`. No unit. Range [1, 2], 1 = independent; higher is
    better. A constant image, or an empty mask, gives 1. No map.

    Convention:
        Studholme's quotient in [1, 2]; others divide `2 mi` by `H(F) + H(M)`, which lies in [0, 1]. With spline windows
        2 is approached, not reached, even by `nmi(a, a)`: see `mi`.

    Args:
        bins: of each image, at least 5.

    Raises:
        SettingsError: too few bins.

    Example:
        >>> import torch
        >>> halves = torch.tensor([0.0, 1.0]).repeat(8).reshape(1, 1, 4, 4)
        >>> round(NormalisedMutualInformation()(halves, 1 - halves).item(), 4)
        1.2854

    References:
        Studholme, Hill and Hawkes, 1999, doi:10.1016/S0031-3203(98)00091-0.
    """

    name = "nmi"
    higher_is_better = True
    value_range: ClassVar[tuple[float, float]] = (1.0, 2.0)

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        fixed_entropy, moving_entropy, joint_entropy = self._entropies(state, moving, overlap)
        seen = joint_entropy > 0
        quotient = (fixed_entropy + moving_entropy) / torch.where(seen, joint_entropy, torch.ones_like(joint_entropy))
        return torch.where(seen, quotient, torch.ones_like(quotient)).to(moving.dtype)


def _entropy(probability: torch.Tensor) -> torch.Tensor:
    """Entropy in nats along the last axis; an empty bin adds nothing, and its gradient stays finite."""
    return -(probability * probability.clamp_min(torch.finfo(probability.dtype).tiny).log()).sum(dim=-1)
