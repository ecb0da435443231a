"""What a check compares: both images on the fixed grid, where both have data, and the voxels that are judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy import ndimage

from regsim.errors import GridError, InputError
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.metrics.registration_error import working_spacing
from regsim.prepare import foreground
from regsim.transforms.base import Transform
from regsim.transforms.linear import LinearTransform
from regsim.transforms.warp import warp

AROUND = 8
PIXELS_ACROSS = 256
MUCH_FINER, FEWEST_ACROSS, VOXELS_ACROSS = 4, 32, 128
ALIKE = 0.1
"""Where less than this share of the zeros' outline differs between the images, one and the same mask has cut both."""
COMMON = 0.5
CUT = "Both images are cut along the same outline, as by one mask. That outline is not taken as evidence of alignment."


@dataclass(frozen=True)
class CheckPair:
    """Two images on one grid. All masks are bool, `(*shape)`.

    Args:
        fixed, moved: without masks, finite.
        mask: the voxels that are judged: asked about, and seen in both images.
        held: where both images have data.
        overlap: share of what was asked about where both have data.
        notes: what a reader must know about how the pair was made.
    """

    fixed: Image
    moved: Image
    mask: torch.Tensor
    held: torch.Tensor
    overlap: float
    notes: tuple[str, ...] = ()

    def without_common_cut(self, reach: float) -> "CheckPair":
        """The same, not looked at where one mask has cut both images, found within `reach` (physical units)."""
        voxels = [max(1, round(reach / step)) for step in reversed(self.fixed.grid.spacing)]
        cut, share = cut_alike(self.fixed.data[0], self.moved.data[0], voxels)
        told = (*self.notes, CUT) if share > COMMON else self.notes
        return replace(self, held=self.held & (~cut | self.mask), notes=told)

    def part(self, box: tuple[slice, ...]) -> "CheckPair":
        """The pair within a box of voxels."""
        return replace(
            self,
            fixed=part_of(self.fixed, box),
            moved=part_of(self.moved, box),
            mask=self.mask[box],
            held=self.held[box],
        )


def check_pair(
    fixed: Image, moved: Image, mask: torch.Tensor | None, transform: Transform | None, carry: bool | None = None
) -> CheckPair:
    """Bring the moved image onto the fixed grid where it is not there yet, and find what can be judged.

    Args:
        fixed: its own mask counts where no other is given.
        moved: on the fixed grid, or on its own; its mask says where it can be trusted.
        mask: `(1, *shape)` or `(*shape)`, above 0 where the error is asked for; the fixed image's foreground if None.
        transform: fixed points to points of the unmoved image.
        carry: whether the moved image is still to be carried by the transform; None: where it is not on the fixed grid.

    Raises:
        GridError: 2-D against 3-D, pixels against mm, a mask of another shape, no overlap.
        InputError: more than one channel, a constant image, values that are not finite inside the mask, an empty mask.
        TransformError: an affine transform that cannot be inverted.
    """
    fixed, moved = fixed.to("cpu"), moved.to("cpu")
    _check(fixed, moved)
    if isinstance(transform, LinearTransform):
        transform.inverse()
    there = moved.grid.same_as(fixed.grid) and moved.grid.unit == fixed.grid.unit
    carry = (not there) if carry is None else carry
    asked = _asked(fixed, mask)
    carried, held, trusted = _carried(fixed, moved, transform) if carry else _as_it_is(moved)
    bad = ~torch.isfinite(fixed.data[0])
    _refuse_bad(fixed.name, bad & asked)
    if not carry:
        _refuse_bad(moved.name, ~torch.isfinite(carried.data[0]) & asked & held & trusted)
    good = ~bad & torch.isfinite(carried.data[0])
    judged = asked & held & trusted & good
    wanted = asked & (trusted | ~held)
    if not bool(judged.any()):
        raise GridError(
            f"no overlap: '{moved.name}' has no data in the mask of '{fixed.name}'; register them first, or give --transform"
        )
    return CheckPair(
        fixed=Image(_finite(fixed.data, good), fixed.grid, name=fixed.name),
        moved=Image(_finite(carried.data, good), fixed.grid, name=moved.name),
        mask=judged,
        held=held & trusted & good,
        overlap=float(judged.sum() / wanted.sum().clamp_min(1)),
        notes=_notes(there, carry, transform),
    )


def box_around(mask: torch.Tensor, grid: Grid, margin: float) -> tuple[slice, ...]:
    """The bounding box of a mask `(*shape)` and `margin` (physical units) on every side, clipped to the grid."""
    places = mask.nonzero()
    first, last = places.amin(dim=0).tolist(), places.amax(dim=0).tolist()
    extra = [math.ceil(margin / step) for step in reversed(grid.spacing)]
    return tuple(
        slice(max(0, low - more), min(n, high + more + 1))
        for low, high, more, n in zip(first, last, extra, grid.shape, strict=True)
    )


def part_of(image: Image, box: tuple[slice, ...]) -> Image:
    """The image within a box of voxels (slices of the array)."""
    low = torch.tensor([float(each.start) for each in reversed(box)], dtype=torch.float64)
    size = tuple(each.stop - each.start for each in reversed(box))
    grid = replace(image.grid, size=size, origin=tuple(image.grid.index_to_physical(low).tolist()))
    mask = None if image.mask is None else image.mask[(slice(None), *box)]
    return Image(image.data[(slice(None), *box)], grid, mask, image.name)


def default_working(grid: Grid, own: float) -> float:
    """Side of a working voxel: the model's own, or the images' where much coarser; in pixels, 256 of them on the longest side.

    Images whose voxels are finer than a quarter of the model's own, less than 32 of which the longest side would hold, show
    another scale, a mouse or cells: 256 of them (a picture) or 128 (a volume) then, none finer than the images'.
    """
    if grid.unit != "mm":
        return float(max(1, math.ceil(max(grid.size) / PIXELS_ACROSS)))
    found = working_spacing(min(grid.spacing), own)
    longest = max(n * step for n, step in zip(grid.size, grid.spacing, strict=True))
    if min(grid.spacing) * MUCH_FINER >= found or longest >= FEWEST_ACROSS * found:
        return found
    return max(min(grid.spacing), longest / (PIXELS_ACROSS if grid.ndim == 2 else VOXELS_ACROSS))


def cut_alike(fixed: torch.Tensor, moved: torch.Tensor, reach: Sequence[int]) -> tuple[torch.Tensor, float]:
    """Where both images are zero because the same mask has cut them: its outline tells nothing of the anatomy.

    Zeros that anatomy leaves (air, a skull that was taken off) have an outline of their own in each image. Within `reach`
    voxels, along each axis of the arrays `(*shape)`, of such a place hardly any voxel beside the common zeros is zero in one
    image alone.

    Returns:
        Bool, `(*shape)`; and the share of the zeros' outline that is so.
    """
    zero = [(image == 0).numpy() for image in (fixed, moved)]
    both, one = zero[0] & zero[1], zero[0] ^ zero[1]
    outline = both & ndimage.binary_dilation(~both)
    differs = one & ndimage.binary_dilation(both)
    sizes = [2 * length + 1 for length in reach]
    around, apart = (
        ndimage.uniform_filter(each.astype("float32"), sizes, mode="constant") for each in (outline, differs)
    )
    cut = both & (around > 1e-6) & (apart < ALIKE * around)
    return torch.from_numpy(cut), float(cut[outline].mean()) if outline.any() else 0.0


def _check(fixed: Image, moved: Image) -> None:
    if fixed.ndim != moved.ndim:
        raise GridError(
            f"fixed '{fixed.name}' is {fixed.ndim}-D, moved '{moved.name}' is {moved.ndim}-D; expected two of a kind"
        )
    for image in (fixed, moved):
        if image.data.shape[0] != 1:
            raise InputError(f"'{image.name}' has {image.data.shape[0]} channels; a check compares images with one")
        low, high = _range(image.data)
        if low == high:
            raise InputError(f"'{image.name}' is constant ({low:g} everywhere): there is nothing to compare")


def _range(data: torch.Tensor) -> tuple[float, float]:
    known = data[torch.isfinite(data)]
    return (float(known.min()), float(known.max())) if known.numel() else (math.nan, math.inf)


def _asked(fixed: Image, mask: torch.Tensor | None) -> torch.Tensor:
    """Where the error is asked for, `(*shape)` bool."""
    given = fixed.mask if mask is None else mask
    if given is None:
        return foreground(Image(torch.nan_to_num(fixed.data.float(), posinf=0, neginf=0), fixed.grid, name=fixed.name))
    flat = given[0] if given.ndim == fixed.ndim + 1 else given
    if tuple(flat.shape) != fixed.grid.shape:
        raise GridError(f"the mask {tuple(given.shape)} does not fit the fixed grid of shape {fixed.grid.shape}")
    if not bool((flat > 0).any()):
        raise InputError("the mask is empty: no voxel is above 0")
    return flat > 0


Carried = tuple[Image, torch.Tensor, torch.Tensor]


def _carried(fixed: Image, moved: Image, transform: Transform | None) -> Carried:
    """The moved image on the fixed grid, where it has data, and where its own mask trusts it."""
    found = warp(moved, transform, fixed)
    held = found if moved.mask is None else warp(replace(moved, mask=None), transform, fixed)
    assert found.mask is not None
    assert held.mask is not None
    seen = held.mask[0] > 0
    return found, seen, (found.mask[0] > 0) | ~seen


def _as_it_is(moved: Image) -> Carried:
    everywhere = torch.ones(moved.grid.shape, dtype=torch.bool)
    held = everywhere if moved.mask is None else moved.mask[0] > 0
    return replace(moved, data=moved.data.float()), held, everywhere


def _refuse_bad(name: str, bad: torch.Tensor) -> None:
    if bool(bad.any()):
        raise InputError(f"'{name}': {int(bad.sum())} voxels inside the mask are NaN or infinite; mask them")


def _finite(data: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = torch.where(good[None], data.float(), torch.zeros((), dtype=torch.float32))
    return values


def _notes(there: bool, carry: bool, transform: Any) -> tuple[str, ...]:
    if carry and transform is None:
        return (
            "The moved image lies on another grid and no transform was given: it was resampled by the files' own geometry.",
        )
    if there and not carry and transform is not None:
        return (
            "The moved image is on the fixed grid already, so the transform was not applied again; it is judged for "
            "folding only.",
        )
    return ()
