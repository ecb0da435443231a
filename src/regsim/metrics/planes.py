"""Networks for pictures at work on volumes: planes are cut across each axis, and what is said of them is put together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from regsim.errors import InputError
from regsim.metrics.learned import SMALLEST_SIDE, places_along, planes_of, usable_axes


@dataclass(frozen=True)
class Planes:
    """Planes across one axis of a volume, at most 12, evenly spread; or the image as it is.

    Args:
        axis: across which they are cut, counted over the spatial axes; None: nothing is cut.
        places: which ones.
    """

    axis: int | None
    places: tuple[int, ...] = ()

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """`(M, C, D, H, W)` to `(M * places, C, ...)`, an item's planes together."""
        return image if self.axis is None else planes_of(image, self.axis, self.places)

    def mean(self, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The planes' values `(M * places,)` as one an item, `(M,)`; `weights`, as cut, say how much of each plane counts."""
        if self.axis is None:
            return values
        share = weights.flatten(1).mean(dim=1).reshape(-1, len(self.places))
        total = share.sum(dim=1).clamp_min(torch.finfo(share.dtype).tiny)
        return (values.reshape(share.shape) * share).sum(dim=1) / total

    def stacked(self, maps: torch.Tensor, spatial: Sequence[int]) -> torch.Tensor:
        """The planes' maps `(M * places, 1, ...)` as volumes `(M, 1, *spatial)`, interpolated between the planes."""
        if self.axis is None:
            return maps
        stack = maps.reshape(-1, len(self.places), *maps.shape[1:]).movedim(1, self.axis + 2)
        return (
            stack if stack.shape[2:] == tuple(spatial) else F.interpolate(stack, size=list(spatial), mode="trilinear")
        )


def planes_for(shape: Sequence[int], dims: int, whose: str) -> list[Planes]:
    """How images of this shape are shown to a network of `dims` axes: as they are, or as planes across each usable axis.

    Args:
        shape: spatial.
        dims: 2 or 3.
        whose: the metric, for messages.

    Raises:
        InputError: pictures for a network of volumes; an image that is thinner than 2 voxels.

    Example:
        >>> [planes.axis for planes in planes_for((1, 20, 20), 2, "siamregqc")]
        [0]
    """
    if len(shape) < dims:
        raise InputError(f"{whose}: its model is for volumes, the images are pictures {tuple(shape)}")
    if len(shape) == dims:
        if min(shape) < SMALLEST_SIDE:
            raise InputError(f"{whose}: needs at least {SMALLEST_SIDE} voxels a side, got {tuple(shape)}")
        return [Planes(None)]
    axes = usable_axes(shape)
    if not axes:
        raise InputError(f"{whose}: no plane of {tuple(shape)} has {SMALLEST_SIDE} voxels a side")
    return [Planes(axis, tuple(places_along(shape[axis]))) for axis in axes]
