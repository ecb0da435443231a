"""MIND-SSC: the modality independent neighbourhood descriptor, with self-similarity context."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import ClassVar

import torch
import torch.nn.functional as F

from regsim.errors import InputError, SettingsError
from regsim.kernels.box import box_sum
from regsim.kernels.self_similarity import BoundDescriptors, Channels, describe, square_distance
from regsim.metrics.base import AbstractMetric, combine, weighted_mean


@dataclass(frozen=True)
class _Scale:
    """What one dilation needs of the fixed image and the mask."""

    dilation: int
    channels: Channels
    descriptor: torch.Tensor


@dataclass
class _State:
    """Compiled loops (`bound`) take what they can; `scales` serve all else, and are made when first needed."""

    weights: torch.Tensor | None
    bound: list[BoundDescriptors] | None
    make_scales: Callable[[], list[_Scale]]

    @cached_property
    def scales(self) -> list[_Scale]:
        return self.make_scales()


class ModalityIndependentNeighbourhoodDescriptor(AbstractMetric):
    """Compares how each voxel's surroundings resemble each other, not intensities: strong between contrasts.

    For each pair (a, b) of face neighbours of a voxel that are sqrt(2) `dilation` apart (12 in 3-D, 4 in 2-D), D is
    the mean squared difference of the patches around a and b. `mind = exp(-(D - min(D)) / v)`, where v, the mean of
    `D - min(D)` over the pairs, is held within [0.001, 1000] times its mean over the image. Value = mean over voxels
    and pairs of the SQUARED difference of the two images' descriptors. No unit. Range [0, 1], 0 = identical; lower is
    better. Map: the mean over pairs.

    A patch counts the voxel pairs that lie in the image and in the mask; a pair of patches without any is left out of
    its voxel. An axis too short for `dilation` takes no part (a volume of one slice is compared as a picture). A
    constant image has the descriptor 1 everywhere; an empty mask gives 0.

    Convention:
        The 2012 paper compares by absolute differences, the 2013 paper by Hamming distance of quantised descriptors;
        public MIND-SSC losses, and this, use the mean of squares. They pad the border by its own values; here patches
        shrink. Subtracting the minimum and clamping v follow the public code. The clamp makes a value depend (little)
        on the field of view: compare values on one grid and mask only. Distances are in voxels: resample anisotropic
        volumes first.

    Args:
        radius: of the patches, in voxels; 1 means 3 voxels a side.
        dilation: distance of the neighbours, in voxels.
        dilations: several distances whose values are averaged, in place of `dilation`.

    Raises:
        SettingsError: a setting out of its range.
        InputError: fewer than two axes are longer than the dilation.

    Example:
        >>> import torch
        >>> checks = torch.arange(36.0).reshape(1, 1, 6, 6) % 5
        >>> round(ModalityIndependentNeighbourhoodDescriptor(dilation=1)(checks, checks.roll(1, 3)).item(), 4)
        0.0211

    References:
        Heinrich et al., MIND, 2012, doi:10.1016/j.media.2012.05.008.
        Heinrich et al., self-similarity context (MIND-SSC), 2013, doi:10.1007/978-3-642-40811-3_24.
    """

    name = "mind"
    higher_is_better = False
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    multimodal = True
    has_map = True

    def __init__(self, radius: int = 1, dilation: int = 2, dilations: tuple[int, ...] | None = None):
        super().__init__()
        self.radius = radius
        self.dilations = (dilation,) if dilations is None else tuple(dilations)
        if radius < 0:
            raise SettingsError(f"mind: radius must be at least 0, got {radius}")
        if not self.dilations or not all(isinstance(each, int) and each >= 1 for each in self.dilations):
            raise SettingsError(f"mind: dilations must be whole numbers of at least 1, got {self.dilations}")

    def descriptors(self, image: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """The descriptors themselves, in (0, 1]: `(M, K, *spatial)` of `image` `(M, 1, *spatial)`, K pairs for each dilation.

        `weights` `(M, 1, *spatial)` in [0, 1], or None: voxels of weight 0 take no part. No dilation may be longer than all
        axes but one.
        """
        return torch.cat([self._scale(image, weights, dilation).descriptor for dilation in self.dilations], dim=1)

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> _State:
        for dilation in self.dilations:
            if sum(length > dilation for length in fixed.shape[2:]) < 2:
                raise InputError(
                    f"mind: needs two axes longer than its dilation {dilation}, got {tuple(fixed.shape[2:])}; lower it"
                )
        state = _State(weights, None, lambda: [self._scale(fixed, weights, dilation) for dilation in self.dilations])
        if fixed.dtype == torch.float32 and fixed.device.type == "cpu" and not fixed.requires_grad:
            state.bound = [BoundDescriptors(fixed, weights, self.radius, dilation) for dilation in self.dilations]
        return state

    def _compare(self, state: _State, moving: torch.Tensor, overlap: torch.Tensor | None) -> torch.Tensor:
        if state.bound is None:
            return weighted_mean(self._local(state, moving), state.weights, overlap)
        together = combine(state.weights, overlap)
        return torch.stack([bound.distance(moving, together) for bound in state.bound]).mean(dim=0)

    def _local(self, state: _State, moving: torch.Tensor) -> torch.Tensor:
        local = torch.zeros_like(moving)
        for scale in state.scales:
            sums = self._patches(moving, state.weights, scale.dilation)
            local = local + square_distance(sums, scale.descriptor, scale.channels)
        return local / len(state.scales)

    def _scale(self, fixed: torch.Tensor, weights: torch.Tensor | None, dilation: int) -> _Scale:
        """Counts of valid voxel pairs, from the mask alone, and the fixed image's descriptor."""
        inside = fixed.new_ones((1, 1, *fixed.shape[2:])) if weights is None else weights
        held = self._patches(None, inside, dilation)
        valid = held > 0
        share = torch.where(valid, held, torch.ones_like(held)).reciprocal() * valid
        counts = valid.sum(dim=1, keepdim=True).clamp_min(1).to(fixed.dtype)
        total = inside.flatten(1).sum(dim=1).clamp_min(torch.finfo(fixed.dtype).tiny)
        importance = inside / total.reshape((-1,) + (1,) * (fixed.ndim - 1))
        channels = Channels(share, valid, counts, importance)
        return _Scale(dilation, channels, describe(self._patches(fixed, weights, dilation), channels))

    def _patches(self, image: torch.Tensor | None, weights: torch.Tensor | None, dilation: int) -> torch.Tensor:
        """Patch sums of the squared differences of two neighbours, one channel for each pair of neighbours.

        Two pairs share each difference of places; they read the same patch sums, shifted. Without an image: counts of
        pairs.
        """
        like = image if image is not None else weights
        assert like is not None
        shape = like.shape[2:]
        usable = [axis for axis, length in enumerate(shape) if length > dilation]
        channels = []
        for i, j in combinations(usable, 2):
            for sign in (-1, 1):
                here, there, margins = _places(shape, i, j, sign, dilation)
                sums = box_sum(F.pad(_difference(image, weights, here, there), margins), self.radius)
                for axis, other, start in ((i, j, dilation - sign * dilation), (j, i, 0)):
                    part = sums.narrow(axis + 2, start, shape[axis])
                    channels.append(part.narrow(other + 2, dilation, shape[other]))
        return torch.cat(channels, dim=1)


def _places(
    shape: torch.Size, i: int, j: int, sign: int, dilation: int
) -> tuple[tuple[slice, ...], tuple[slice, ...], list[int]]:
    """Where voxels z, and their partners `sign * dilation` further along axis i and `dilation` along axis j, both
    exist.

    The margins (in the order of `F.pad`) extend that region to `dilation` voxels beyond the image on both axes.
    """
    here, there = [slice(None)] * (len(shape) + 2), [slice(None)] * (len(shape) + 2)
    margins = [0] * (2 * len(shape))
    for axis, step in ((i, sign * dilation), (j, dilation)):
        length, first = shape[axis] - dilation, max(0, -step)
        here[axis + 2] = slice(first, first + length)
        there[axis + 2] = slice(first + step, first + step + length)
        place = 2 * (len(shape) - 1 - axis)
        margins[place : place + 2] = [first + dilation, 2 * dilation - first]
    return tuple(here), tuple(there), margins


def _difference(
    image: torch.Tensor | None, weights: torch.Tensor | None, here: tuple[slice, ...], there: tuple[slice, ...]
) -> torch.Tensor:
    """Squared difference of two places, weighted by both; without an image, the weight alone."""
    both = None if weights is None else weights[here] * weights[there]
    if image is None:
        assert both is not None
        return both
    square = (image[there] - image[here]).square()
    return square if both is None else square * both
