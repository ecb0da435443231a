"""From two images to what matching says about each cell: MIND-SSC descriptors, searched at several scales.

Nothing here depends on intensities beyond what MIND-SSC does, nor on the direction of a displacement. So what is learnt
from some contrasts serves others, and a pair can be mirrored and turned in training for nothing.
"""

import torch
import torch.nn.functional as F
from pydantic import Field

from regsim.kernels.coupling import Coupled, cell_means, coupled
from regsim.kernels.matching import Search, describe, match, smoothed
from regsim.metrics.mind import ModalityIndependentNeighbourhoodDescriptor
from regsim.settings import Settings

HELD = 0.49
AROUND = 3
KEPT_ROUNDS = (0, 2, 4)
OF_A_ROUND = 6
SUMMARISED = (0, 2, 3)
TINY = 1e-6


class ScaleSettings(Settings):
    """One scale of the search.

    Args:
        factor: the images are made coarser by this first.
        reach: longest displacement along an axis, in voxels of this scale.
        side: of a cell, in voxels of this scale; `factor * side` must be the same for all scales.
        dilation: of the descriptors.
    """

    factor: int = Field(default=1, ge=1, le=8)
    reach: int = Field(default=4, ge=1, le=8)
    side: int = Field(default=2, ge=1, le=8)
    dilation: int = Field(default=2, ge=1, le=4)


DEFAULT_SCALES = (ScaleSettings(factor=1, reach=4, side=2), ScaleSettings(factor=2, reach=5, side=1))


def feature_count(scales: tuple[ScaleSettings, ...], dims: int) -> int:
    """How many features `matching_features` gives a cell."""
    return sum(_count(Search(dims, scale.reach, scale.side)) for scale in scales)


def _count(search: Search) -> int:
    """Of one scale."""
    return 2 * search.features + len(KEPT_ROUNDS) * OF_A_ROUND + 1


def matching_features(
    fixed: torch.Tensor, moving: torch.Tensor, held: torch.Tensor, scales: tuple[ScaleSettings, ...]
) -> torch.Tensor:
    """Features of each cell of one pair.

    Args:
        fixed, moving: `(1, 1, H, W)` or `(1, 1, D, H, W)`, on the grid on which the network works.
        held: alike, weights in [0, 1]; the images are 0 outside.
        scales: see `ScaleSettings`.

    Returns:
        `(F, *cells)`. For each scale: what `kernels.matching.describe` says of the costs as they are, and of their
        means over 3 cells a side; of three rounds of `kernels.coupling.coupled`, the lengths of the cell's own
        displacement, of the smooth field's, of that averaged over 7 cells a side, and of their difference, scatter and
        excess; the share of displacements that could be tried.
    """
    dims = fixed.ndim - 2
    found: list[torch.Tensor] = []
    for scale in scales:
        images = [_coarser(each, held, scale.factor) for each in (fixed, moving)]
        weights = images[0][1]
        descriptors = [_descriptors(image, weights, scale.dilation) for image, _ in images]
        search = Search(dims, scale.reach, scale.side)
        inside = _volume(weights)
        costs, share = match(descriptors[0], descriptors[1], inside, inside, search)
        found += [describe(costs, search), describe(smoothed(costs, search), search)]
        rounds = coupled(costs, search)
        found += [_of_round(rounds[kept], dims) for kept in KEPT_ROUNDS]
        found.append(share[None])
    cells = torch.cat([_at_most(part, found[0].shape[1:]) for part in found])
    return cells if dims == 3 else cells[:, 0]


def summary_places(scales: tuple[ScaleSettings, ...], dims: int) -> list[int]:
    """Which features tell whether a pair is like others, whatever its error: lowest cost, mean less lowest, deviation."""
    places, start = [], 0
    for scale in scales:
        many = Search(dims, scale.reach, scale.side).features
        places += [start + offset + place for offset in (0, many) for place in SUMMARISED]
        start += _count(Search(dims, scale.reach, scale.side))
    return places


def on_working_grid(image: torch.Tensor, held: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """An image `(1, 1, *spatial)` on `shape` voxels over the same extent: means where it gets coarser, linear where finer."""
    top, weights = (resized(each, shape) for each in (image * held, held))
    return torch.where(weights > TINY, top / weights.clamp_min(TINY), torch.zeros_like(top))


def resized(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`(N, C, *spatial)` on other voxels over the same extent."""
    fewer = tuple(min(n, wanted) for n, wanted in zip(values.shape[2:], shape, strict=True))
    if fewer != tuple(values.shape[2:]):
        values = F.interpolate(values, size=fewer, mode="area")
    if fewer != shape:
        mode = "bilinear" if values.ndim == 4 else "trilinear"
        values = F.interpolate(values, size=shape, mode=mode, align_corners=False)
    return values


def _coarser(image: torch.Tensor, held: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over blocks of held voxels, and which blocks are held (at least half of them is)."""
    if factor == 1:
        inside = (held > HELD).to(image.dtype)
        return image * inside, inside
    padding = [length for n in reversed(image.shape[2:]) for length in (0, -n % factor)]
    average = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    top, weights = (average(F.pad(each, padding), factor) for each in (image * held, held))
    inside = (weights > HELD).to(image.dtype)
    return top / weights.clamp_min(TINY) * inside, inside


def _descriptors(image: torch.Tensor, held: torch.Tensor, dilation: int) -> torch.Tensor:
    """`(K, D, H, W)`; an image without two axes longer than the dilation has none, and zeros instead."""
    if sum(length > dilation for length in image.shape[2:]) < 2:
        return image.new_zeros((4, *_volume(image).shape))
    mind = ModalityIndependentNeighbourhoodDescriptor(radius=1, dilation=dilation)
    found = mind.descriptors(image, held)[0]
    return found if found.ndim == 4 else found[:, None]


def _volume(image: torch.Tensor) -> torch.Tensor:
    """`(D, H, W)`, one plane for a picture."""
    return image[0, 0] if image.ndim == 5 else image[0]


def _of_round(found: Coupled, dims: int) -> torch.Tensor:
    """`(6, d, h, w)`: lengths of own, field, wide average, and own less field; scatter; excess."""
    both = cell_means(torch.cat([found.field, torch.ones_like(found.field[:1])]), AROUND, dims)
    wide = both[:3] / both[3:]
    lengths = [each.norm(dim=0) for each in (found.own, found.field, wide, found.own - found.field)]
    return torch.stack([*lengths, found.scatter, found.excess])


def _at_most(part: torch.Tensor, cells: torch.Size) -> torch.Tensor:
    """The same cells for all scales: a coarser scale may have one more behind the last."""
    for axis, length in enumerate(cells, start=1):
        part = part.narrow(axis, 0, length)
    return part
