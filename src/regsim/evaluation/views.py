"""Slices to look at: three planes through the fixed image, in the radiologist's orientation, with square pixels."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regsim.evaluation.results import Plane, Views
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.prepare import foreground, rescaled
from regsim.transforms.base import Transform
from regsim.transforms.sampling import inside, sample

Array = npt.NDArray[Any]
SLICES = 9
LARGEST = {2: 1200, 3: 256}
# name, axis that is stacked, axis of the rows, axis of the columns, edges left/right/top/bottom; rows of z are turned
PLANES = (
    ("axial", 2, 1, 0, ("R", "L", "A", "P")),
    ("coronal", 1, 2, 0, ("R", "L", "S", "I")),
    ("sagittal", 0, 2, 1, ("A", "P", "S", "I")),
)
FLAT = ("plane", -1, 1, 0, ("", "", "", ""))


def make_views(
    fixed: Image,
    moving: Image,
    found: Transform,
    before: Transform | None = None,
    deformation: Transform | None = None,
) -> Views:
    """Stacks of fixed, before and after; with a deformation also its warped grid and Jacobian determinant.

    Args:
        fixed: gives the planes: its own axes, permuted and turned to lie nearest to left, back and head.
        moving: shown through `before` (identity where None) and `found`.
        found: the recovered transform.
        before: what the user started from.
        deformation: the part of `found` that is not linear, to be drawn.
    """
    grid = display_grid(fixed)
    still, carried = rescaled(fixed), rescaled(moving)
    determinant = None
    if deformation is not None:
        with torch.no_grad():
            determinant = Image(deformation.jacobian_determinant(fixed.grid).float()[None], fixed.grid)
    planes, arrays = [], {}
    for name, stack, rows, columns, edges in PLANES if grid.ndim == 3 else (FLAT,):
        positions = _positions(fixed, grid, stack)
        slices = [_points(grid, stack, rows, columns, position) for position in positions]
        pixel = float(grid.spacing[0])
        left, right, top, bottom = edges
        where = [_physical(grid, stack, position) for position in positions]
        planes.append(Plane(name=name, left=left, right=right, top=top, bottom=bottom, positions=where, pixel=pixel))
        arrays[f"{name}_fixed"] = _stack(still, slices, None)
        arrays[f"{name}_before"] = _stack(carried, slices, before)
        arrays[f"{name}_after"] = _stack(carried, slices, found)
        if deformation is not None and determinant is not None:
            arrays[f"{name}_jacobian"] = np.stack([_read(determinant, points, 1.0) for points in slices])
            arrays[f"{name}_grid"] = np.stack([_drawn(deformation, grid, points, rows, columns) for points in slices])
    return Views(planes, arrays)


def display_grid(fixed: Image) -> Grid:
    """The fixed extent with equal spacing, its axes permuted and turned to lie nearest to left, back and head."""
    grid = fixed.grid
    direction = np.asarray(grid.direction)
    order = max(
        itertools.permutations(range(grid.ndim)), key=lambda p: sum(abs(direction[i, p[i]]) for i in range(grid.ndim))
    )
    signs = [1.0 if grid.unit == "px" or direction[i, order[i]] >= 0 else -1.0 for i in range(grid.ndim)]
    corner = np.array([0.0 if signs[order.index(a)] > 0 else grid.size[a] - 1.0 for a in range(grid.ndim)])
    origin = grid.index_to_physical(torch.as_tensor(corner)).tolist()
    columns = np.stack([signs[i] * direction[:, order[i]] for i in range(grid.ndim)], axis=1)
    turned = replace(
        grid,
        size=tuple(grid.size[a] for a in order),
        spacing=tuple(grid.spacing[a] for a in order),
        origin=tuple(origin),
        direction=tuple(tuple(float(v) for v in row) for row in columns),
    )
    spacing = max(min(grid.spacing), float(grid.extent.max()) / LARGEST[grid.ndim])
    return turned.with_spacing((spacing,) * grid.ndim)


def _physical(grid: Grid, stack: int, position: int) -> float:
    """Where a slice lies along its axis, physical (LPS); 0 for a picture."""
    if stack < 0:
        return 0.0
    return float(grid.centre[stack] + (position - (grid.size[stack] - 1) / 2) * grid.spacing[stack])


def _positions(fixed: Image, grid: Grid, stack: int) -> Sequence[int]:
    """Slices spread over the middle four fifths of the foreground."""
    if stack < 0:
        return [0]
    points = fixed.grid.points()[foreground(fixed)]
    index = grid.physical_to_index(points)[:, stack]
    low, high = float(index.min()), float(index.max())
    margin = 0.1 * (high - low)
    return [round(float(p)) for p in np.linspace(low + margin, high - margin, SLICES)]


def _points(grid: Grid, stack: int, rows: int, columns: int, position: int) -> torch.Tensor:
    """The physical points of one slice, `(height, width, ndim)`; the row axis is turned where it is z (head up)."""
    down = torch.arange(grid.size[rows], dtype=torch.float32)
    if rows == 2:
        down = down.flip(0)
    across = torch.arange(grid.size[columns], dtype=torch.float32)
    index = torch.zeros(len(down), len(across), grid.ndim)
    index[..., rows] = down[:, None]
    index[..., columns] = across[None, :]
    if stack >= 0:
        index[..., stack] = float(position)
    return grid.index_to_physical(index)


def _stack(image: Image, slices: list[torch.Tensor], transform: Transform | None) -> Array:
    read: Callable[[torch.Tensor], torch.Tensor] = (lambda points: points) if transform is None else transform
    with torch.no_grad():
        shown = [_read(image, read(points).float(), 0.0) for points in slices]
    return np.round(np.stack(shown) * 255).astype(np.uint8)


def _read(image: Image, points: torch.Tensor, outside: float) -> Array:
    data = image.batch.mean(dim=1, keepdim=True)
    values = sample(data, image.grid, points.flatten(0, -2), "linear", "border")[0, 0].reshape(points.shape[:-1])
    seen = inside(image.grid, points)
    return (values * seen + outside * (1 - seen)).numpy().astype(np.float32)


def _drawn(deformation: Transform, grid: Grid, points: torch.Tensor, rows: int, columns: int) -> Array:
    """For every pixel the (row, column) that it is mapped to."""
    with torch.no_grad():
        index = grid.physical_to_index(deformation(points).float())
    down = index[..., rows]
    if rows == 2:
        down = grid.size[2] - 1 - down
    return torch.stack([down, index[..., columns]]).numpy().astype(np.float32)
