"""How surely two feature maps match where they lie, and not a voxel or two away: what makes images comparable."""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F

from regsim.kernels.box import box_sum

STEPS = (1, 2)
RADIUS = 2
SHARPNESS = 1 / 0.3
TINY = 1e-4
FEWEST = 1e-3
NONE, LARGEST = -1.0, 50.0
SCALES, SMALLEST_SIDE = 3, 8


def matching_probability(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The probability that a place of one image matches the same place of the other, among its neighbours.

    `p = exp(-a_0 / (t s)) / sum_d exp(-a_d / (t s))`, where `a_d` is half the squared distance of the first image's vectors to
    the second's d voxels away, averaged over a window of 5 voxels a side and the weights, s the mean of `a_d` over the
    d that are not 0, and t = 0.3; d runs over 0 and steps of 1 and 2 voxels along each axis, both ways. Averaged with the
    same for exchanged images. Noise, bias and unlike contrasts raise all `a_d` alike and cancel.

    Args:
        first, second: `(M, C, *spatial)` vectors.
        weights: `(M, 1, *spatial)`.

    Returns:
        `(M, 1, *spatial)` in (0, 1); where nothing can be told apart 1 over the number of candidates.
    """
    dims, margin = first.ndim - 2, [max(STEPS)] * (2 * (first.ndim - 2))
    first, second, weights = (F.pad(each, margin) for each in (first, second, weights))
    here = box_sum(weights * _half_square(first, second), RADIUS) / box_sum(weights, RADIUS).clamp_min(FEWEST)
    there, back = [], []
    for axis, step, sign in product(range(dims), STEPS, (1, -1)):
        both = weights * shifted(weights, axis, sign * step)
        apart = both * _half_square(first, shifted(second, axis, sign * step))
        held = box_sum(both, RADIUS)
        away = torch.where(held > FEWEST, box_sum(apart, RADIUS) / held.clamp_min(FEWEST), torch.full_like(held, NONE))
        there.append(away)
        back.append(shifted(away, axis, -sign * step))
    found = 0.5 * (_share(here, torch.stack(there)) + _share(here, torch.stack(back)))
    for axis in range(dims):
        found = found.narrow(axis + 2, margin[0], found.shape[axis + 2] - 2 * margin[0])
    return found


def halved(maps: torch.Tensor, times: int) -> torch.Tensor:
    """Means of blocks of `2^times` voxels a side; what does not fill a block is left out."""
    if times == 0:
        return maps
    pool = F.avg_pool2d if maps.ndim == 4 else F.avg_pool3d
    return pool(maps, 2**times)


def usable_scales(shape: Sequence[int]) -> list[int]:
    """How often maps of this size are halved: not at all, once, and twice, as long as 8 cells a side are left.

    >>> usable_scales((40, 17)), usable_scales((5, 90))
    ([0, 1], [0])
    """
    return [times for times in range(SCALES) if times == 0 or min(shape) >= SMALLEST_SIDE * 2**times]


def shifted(image: torch.Tensor, axis: int, step: int) -> torch.Tensor:
    """What lies `step` voxels further along a spatial axis; zeros beyond the border."""
    length = image.shape[axis + 2]
    if abs(step) >= length:
        return torch.zeros_like(image)
    margins = [0, 0] * (image.ndim - 2)
    margins[2 * (image.ndim - 3 - axis) + (step > 0)] = abs(step)
    return F.pad(image.narrow(axis + 2, max(step, 0), length - abs(step)), margins)


def _half_square(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return 0.5 * (first - second).square().sum(dim=1, keepdim=True)


def _share(here: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
    """The softmax of no step among all steps that have data."""
    held = (away >= 0).to(away)
    rate = SHARPNESS / ((away * held).sum(dim=0) / held.sum(dim=0).clamp_min(1) + TINY)
    gap = torch.where(away >= 0, (here - away) * rate, torch.full_like(away, -LARGEST)).clamp(-LARGEST, LARGEST)
    return 1 / (1 + (torch.exp(gap) * held).sum(dim=0))
