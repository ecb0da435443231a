"""Resampling: the only place where an image is carried onto another grid. Without gradient; `sampling` has one."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from regsim.errors import GridError, SettingsError
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.transforms.base import Transform
from regsim.transforms.sampling import inside, sample

Method = Literal["linear", "nearest", "cubic", "labels"]
METHODS = ("linear", "nearest", "cubic", "labels")
EXACT = 2**24


@torch.no_grad()
def warp(
    image: Image,
    transform: Transform | None = None,
    like: Image | Grid | None = None,
    method: Method | None = None,
    fill: float = 0.0,
) -> Image:
    """Carry an image through a transform onto a grid.

    Convention:
        The transform maps points of `like` (fixed) to points of `image` (moving), ITK's resampling direction.

    Args:
        image: what is carried.
        transform: None for the identity: the files' own geometry.
        like: the grid of the result; the image's own where not given.
        method: "linear", "nearest", "cubic" (B-spline, not differentiable) or "labels" (nearest, any whole number kept
            exactly). Label maps are always carried as labels; images are linear where nothing is said.
        fill: the value outside the image.

    Returns:
        float32 on the new grid (int64 for labels). Its mask: the carried mask, or where the image has data.

    Raises:
        GridError: 2-D against 3-D, or pixels against mm.
        SettingsError: unknown method, or a label map with a method that would blend labels.
    """
    grid = like.grid if isinstance(like, Image) else like or image.grid
    chosen = _method(image, method)
    image = image if image.is_labels else image.filled()
    _check(image, grid)
    points = (
        grid.points(torch.float32, image.data.device)
        if transform is None
        else transform.mapping(grid)().float().to(image.data.device)
    )
    held = inside(image.grid, points)
    mask = held
    if image.mask is not None:
        mask = held * (sample(image.mask[None], image.grid, points, "nearest", "border")[0, 0] > 0.5)
    values = _labels(image, points) if chosen == "labels" else _values(image, points, chosen)
    return Image(torch.where(held[None] == 0, torch.as_tensor(fill).to(values), values), grid, mask[None], image.name)


def _method(image: Image, method: Method | None) -> Method:
    if method is None:
        return "labels" if image.is_labels else "linear"
    if method not in METHODS:
        raise SettingsError(f"unknown interpolation '{method}'; known: {', '.join(METHODS)}")
    if image.is_labels and method in ("linear", "cubic"):
        raise SettingsError(
            f"'{image.name}' is a label map: {method} interpolation would make labels that are not there"
        )
    return "labels" if image.is_labels else method


def _check(image: Image, grid: Grid) -> None:
    if image.grid.ndim != grid.ndim:
        raise GridError(f"'{image.name}' is {image.grid.ndim}-D, the target grid is {grid.ndim}-D")
    if image.grid.unit != grid.unit:
        raise GridError(
            f"'{image.name}' is in {image.grid.unit}, the target grid in {grid.unit}; give the picture a spacing in mm"
        )


def _values(image: Image, points: torch.Tensor, method: Method) -> torch.Tensor:
    if method == "cubic":
        return _cubic(image, points)
    mode: Literal["linear", "nearest"] = "nearest" if method == "nearest" else "linear"
    values: torch.Tensor = sample(image.batch, image.grid, points, mode, "border")[0]
    return values


def _labels(image: Image, points: torch.Tensor) -> torch.Tensor:
    """Nearest neighbour; where float32 would round a label, over positions in the list of labels."""
    if image.is_labels and all(abs(int(end)) <= EXACT for end in image.data.aminmax()):
        near: torch.Tensor = sample(image.batch.float(), image.grid, points, "nearest", "border")[0]
        return near.round().long()
    known, position = torch.unique(image.data, return_inverse=True)
    nearest = sample(position[None].float(), image.grid, points, "nearest", "border")[0]
    carried: torch.Tensor = known[nearest.round().long()]
    return carried if image.is_labels else carried.float()


def _cubic(image: Image, points: torch.Tensor) -> torch.Tensor:
    """Cubic B-spline interpolation by SciPy; the border value goes on outside."""
    index = image.grid.physical_to_index(points.detach().double().cpu()).numpy()
    where = np.moveaxis(index[..., ::-1], -1, 0)
    channels = [map_coordinates(channel.cpu().numpy(), where, order=3, mode="nearest") for channel in image.data]
    return torch.from_numpy(np.stack(channels).astype(np.float32)).to(image.data.device)


def resample(image: Image, spacing: tuple[float, ...], method: Method | None = None) -> Image:
    """The image on a grid of about this spacing over the same extent; no smoothing (see `prepare.coarser`)."""
    carried = warp(image, None, image.grid.with_spacing(spacing), method)
    return carried if image.mask is not None else replace(carried, mask=None)
