"""The best translation for each of many turns, by FFT: for partial views, whose centres mislead."""

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import fft

from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.prepare import coarser
from regsim.transforms.linear import Rigid
from regsim.transforms.sampling import inside, sample

VOXELS = 12
CLASSES = 3
LARGEST = 40
"""Voxels a side of the grid in which the moving image turns."""
SMALLEST_SHARE = 0.2
"""Of the smaller image (its mask): less overlap is not looked at."""

Array = npt.NDArray[np.float32]


def best_translations(fixed: Image, moving: Image, vectors: torch.Tensor, most: int) -> list[Rigid]:
    """The most promising turns, each with its best translation, best first.

    Both images are cut into three classes of brightness on grids of one pitch, about 12 voxels along the fixed image. How often
    two classes meet is, for all translations at once, a product of Fourier transforms; a translation's worth is the mutual
    information of the classes times the number of voxels that meet, which favours neither a small overlap nor a large
    empty one.

    Args:
        fixed: coarse images will do.
        moving: likewise.
        vectors: rotation angles or vectors, `(n, 1)` or `(n, 3)`.
        most: at most so many are returned; turns without enough overlap are left out.
    """
    reach = float(np.linalg.norm(moving.grid.extent))
    spacing = max(float(fixed.grid.extent.max()) / VOXELS, reach / LARGEST)
    here, there = coarser(fixed, spacing), coarser(moving, spacing)
    still, turning = _cubes(fixed.grid, spacing, fixed.grid.extent), _cubes(moving.grid, spacing, reach, fixed.grid)
    shape = tuple(fft.next_fast_len(a + b, real=True) for a, b in zip(still.shape, turning.shape, strict=True))
    axes = tuple(range(1, 1 + fixed.ndim))
    values, seen = _read(here, still.points())
    own = fft.rfftn(_classes(values, seen, _limits(here)), shape, axes=axes)
    held = there.grid.voxels if there.mask is None else float(there.mask.sum())
    smallest = SMALLEST_SHARE * min(float(seen.sum()), held * float(np.prod(there.grid.spacing)) / spacing**fixed.ndim)
    limits, offsets = _limits(there), turning.points() - torch.as_tensor(moving.grid.centre).float()
    found: list[tuple[float, int, npt.NDArray[np.float64]]] = []
    for number, vector in enumerate(vectors):
        values, seen = _read(there, _turned(fixed.ndim, vector, offsets, moving.grid.centre))
        other = fft.rfftn(_classes(values, seen, limits), shape, axes=axes)
        counts = fft.irfftn(own[:, None] * other.conj()[None], shape, axes=tuple(a + 1 for a in axes))
        worth, place = _best(counts, smallest)
        if math.isfinite(worth):
            found.append((worth, number, _shift(place, shape, still, turning)))
    chosen = sorted(found, key=lambda each: -each[0])[:most]
    return [_start(fixed, moving, vectors[number], shift) for _, number, shift in chosen]


def _cubes(grid: Grid, spacing: float, extent: npt.NDArray[np.float64] | float, like: Grid | None = None) -> Grid:
    """A grid of cubes round this grid's centre that covers `extent`, along its own axes or those of another."""
    size = tuple(int(n) for n in np.maximum(np.ceil(np.broadcast_to(extent, grid.ndim) / spacing), 1))
    direction = (like or grid).direction
    corner = grid.centre - np.asarray(direction) @ (spacing * (np.asarray(size) - 1) / 2)
    return Grid(size, (spacing,) * grid.ndim, tuple(corner.tolist()), direction, grid.unit)


def _read(image: Image, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, and how much the image has data there."""
    values = sample(image.batch.cpu(), image.grid, points, "linear", "border")[0, 0]
    seen = inside(image.grid, points)
    if image.mask is not None:
        seen = seen * sample(image.mask[None].cpu(), image.grid, points, "linear", "border")[0, 0].clamp(0, 1)
    return values, seen


def _limits(image: Image) -> list[float]:
    """Between dark and the rest, and between the darker and the brighter half of the rest."""
    values = image.data[0].flatten() if image.mask is None else image.data[0][image.mask[0] > 0]
    low = 0.5 * float(values.mean() + values.min())
    above = values[values > low]
    return [low, float(above.median()) if above.numel() else low]


def _classes(values: torch.Tensor, weights: torch.Tensor, limits: list[float]) -> Array:
    """`(3, *shape)`: each class's voxels, weighted."""
    which = torch.bucketize(values, torch.tensor(limits))
    return torch.stack([(which == number) * weights for number in range(CLASSES)]).float().numpy()


def _turned(ndim: int, vector: torch.Tensor, offsets: torch.Tensor, centre: npt.NDArray[np.float64]) -> torch.Tensor:
    turn = Rigid(ndim)
    turn.rotation.data.copy_(vector)
    with torch.no_grad():
        points: torch.Tensor = turn(offsets) + torch.as_tensor(centre).float()
    return points


def _best(counts: npt.NDArray[np.float32], smallest: float) -> tuple[float, tuple[int, ...]]:
    """The highest worth of all translations, and where it is; `counts` `(3, 3, *shape)`."""
    counts = counts.clip(min=0)
    total = counts.sum(axis=(0, 1))
    apart = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / total.clip(min=1)
    ratio = np.where((counts > 0.5) & (apart > 0), counts / apart.clip(min=1e-9), 1.0)
    worth = np.where(total >= smallest, (counts * np.log(ratio)).sum(axis=(0, 1)), -np.inf)
    place = np.unravel_index(int(worth.argmax()), worth.shape)
    return float(worth[place]), tuple(int(index) for index in place)


def _shift(place: tuple[int, ...], shape: tuple[int, ...], here: Grid, whole: Grid) -> npt.NDArray[np.float64]:
    """The physical shift that brings the moving image's centre to where it belongs in the fixed image."""
    steps = [
        index - length if index >= own else index for index, length, own in zip(place, shape, here.shape, strict=True)
    ]
    first = np.asarray(here.origin) + here.matrix @ np.asarray(steps[::-1], dtype=np.float64)
    middle: npt.NDArray[np.float64] = first + whole.matrix @ ((np.asarray(whole.size) - 1) / 2)
    return middle


def _start(fixed: Image, moving: Image, vector: torch.Tensor, middle: npt.NDArray[np.float64]) -> Rigid:
    """`y = R (x - middle) + centre of the moving image`, with the centre of rotation in the fixed image's middle."""
    start = Rigid(fixed.ndim, fixed.grid.centre)
    start.rotation.data.copy_(vector)
    with torch.no_grad():
        at_middle = start(torch.as_tensor(middle)[None])[0]
        start.translation.add_(torch.as_tensor(moving.grid.centre) - at_middle)
    return start
