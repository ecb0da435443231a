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
SMALLEST_SHARE = 0.2
"""Of the smaller image's voxels: less overlap is not looked at."""

Array = npt.NDArray[np.float32]


def best_translations(fixed: Image, moving: Image, vectors: torch.Tensor, most: int) -> list[Rigid]:
    """The most promising turns, each with its best translation, best first.

    Both images are cut into three classes of brightness on a grid of about 12 voxels a side. How often two classes meet is, for
    all translations at once, a product of Fourier transforms; a translation's worth is the mutual information of the
    classes times the number of voxels that meet, which favours neither a small overlap nor a large empty one.

    Args:
        fixed: coarse images will do.
        moving: likewise.
        vectors: rotation angles or vectors, `(n, 1)` or `(n, 3)`.
        most: how many are returned.
    """
    spacing = float(fixed.grid.extent.max()) / VOXELS
    here, there = coarser(fixed, spacing), coarser(moving, spacing)
    whole = _cube(moving.grid, spacing, fixed.grid)
    shape = tuple(fft.next_fast_len(a + b, real=True) for a, b in zip(here.grid.shape, whole.shape, strict=True))
    axes = tuple(range(1, 1 + fixed.ndim))
    own = fft.rfftn(_classes(here.data[0].cpu(), _weights(here), _limits(here)), shape, axes=axes)
    limits, offsets = _limits(there), whole.points() - torch.as_tensor(moving.grid.centre).float()
    smallest = SMALLEST_SHARE * min(here.grid.voxels, there.grid.voxels)
    found: list[tuple[float, int, npt.NDArray[np.float64]]] = []
    for number, vector in enumerate(vectors):
        points = _turned(fixed.ndim, vector, offsets, moving.grid.centre)
        seen = inside(there.grid, points) * _mask(there, points)
        values = sample(there.batch.cpu(), there.grid, points, "linear", "border")[0, 0]
        other = fft.rfftn(_classes(values, seen, limits), shape, axes=axes)
        counts = fft.irfftn(own[:, None] * other.conj()[None], shape, axes=tuple(a + 1 for a in axes))
        worth, place = _best(counts, smallest)
        found.append((worth, number, _shift(place, shape, here.grid, whole)))
    chosen = sorted(found, key=lambda each: -each[0])[:most]
    return [_start(fixed, moving, vectors[number], shift) for _, number, shift in chosen]


def _cube(grid: Grid, spacing: float, like: Grid) -> Grid:
    """A grid along the fixed image's axes, round the moving image's centre, that holds it however it is turned."""
    count = math.ceil(float(np.linalg.norm(grid.extent)) / spacing)
    corner = grid.centre - np.asarray(like.direction) @ np.full(grid.ndim, spacing * (count - 1) / 2)
    return Grid((count,) * grid.ndim, (spacing,) * grid.ndim, tuple(corner.tolist()), like.direction, grid.unit)


def _limits(image: Image) -> list[float]:
    """Between dark and the rest, and between the darker and the brighter half of the rest."""
    values = image.data[0].flatten()
    low = 0.5 * float(values.mean() + values.min())
    above = values[values > low]
    return [low, float(above.median()) if above.numel() else low]


def _weights(image: Image) -> torch.Tensor:
    return torch.ones(image.grid.shape) if image.mask is None else image.mask[0].cpu()


def _mask(image: Image, points: torch.Tensor) -> torch.Tensor:
    if image.mask is None:
        return torch.ones(points.shape[:-1])
    return sample(image.mask[None].cpu(), image.grid, points, "linear", "zeros")[0, 0].clamp(0, 1)


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
