"""Slices of a check to look at: planes through the worst place, the surroundings of the worst places, and the viewer's stacks."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from regsim.applications.check import CheckResult
from regsim.applications.check_regions import points_of
from regsim.evaluation.results import Plane, Views
from regsim.evaluation.views import FLAT, PLANES, SLICES, display_grid
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.prepare import rescaled
from regsim.transforms.warp import Method, warp

Array = npt.NDArray[Any]
AROUND_PLACE = 16.0
KINDS = ("error", "lower", "upper")


@dataclass(frozen=True)
class _Plane:
    """One way to cut: the axis that is stacked (-1 in 2-D), and the axes of rows and columns, of the display grid."""

    name: str
    stack: int
    rows: int
    columns: int
    edges: tuple[str, ...]


def check_views(found: CheckResult) -> Views:
    """What the page shows, for each plane and each of the worst places.

    Arrays: `PLANE_fixed`, `PLANE_moved` `(slices, height, width)` uint8, for the viewer. Through the worst place, or as near to
    it as the middle of the mask goes: `PLANE_map_fixed` `(height, width)` uint8, `PLANE_map_error`, `_lower`, `_upper`,
    `_unrelated` float32 (NaN outside the mask), `PLANE_map_position`. The surroundings of place N: `placeN_fixed`, `_moved`,
    `_error`, `_lower`, `_upper`, `_unrelated`, alike.
    """
    grid = display_grid(found.pair.fixed)
    mask = Image(found.pair.mask[None].float(), found.pair.fixed.grid)
    images = {"fixed": rescaled(found.pair.fixed), "moved": rescaled(found.pair.moved)}
    maps = dict(zip(KINDS, (found.error_map, found.lower, found.upper), strict=True)) | {"unrelated": found.unrelated}
    planes, arrays = [], {}
    centre = found.results.places[0].point if found.results.places else tuple(grid.centre)
    for plane in _planes(grid):
        positions = _positions(mask, grid, plane.stack)
        planes.append(_header(plane, grid, positions))
        for name, image in images.items():
            arrays[f"{plane.name}_{name}"] = np.stack([_grey(image, grid, plane, each) for each in positions])
        at = min(max(_nearest(grid, plane.stack, centre), positions[0]), positions[-1])
        arrays[f"{plane.name}_map_fixed"] = _grey(images["fixed"], grid, plane, at)
        arrays[f"{plane.name}_map_position"] = np.array(_physical(grid, plane.stack, at))
        for name, values in _cut(maps, mask, grid, plane, at).items():
            arrays[f"{plane.name}_map_{name}"] = values
    for number, place in enumerate(found.results.places):
        plane = next(each for each in _planes(grid) if each.name == place.plane)
        box = _around(grid, plane, place.point, AROUND_PLACE * found.results.limits.working)
        at = _nearest(box, plane.stack, place.point)
        for name, image in images.items():
            arrays[f"place{number}_{name}"] = _grey(image, box, plane, at)
        for name, values in _cut(maps, mask, box, plane, at).items():
            arrays[f"place{number}_{name}"] = values
    return Views(planes, arrays)


def _planes(grid: Grid) -> list[_Plane]:
    return [_Plane(*entry) for entry in (PLANES if grid.ndim == 3 else (FLAT,))]


def _header(plane: _Plane, grid: Grid, positions: list[int]) -> Plane:
    left, right, top, bottom = plane.edges
    where = [_physical(grid, plane.stack, position) for position in positions]
    pixel = float(grid.spacing[0])
    return Plane(name=plane.name, left=left, right=right, top=top, bottom=bottom, positions=where, pixel=pixel)


def _positions(mask: Image, grid: Grid, stack: int) -> list[int]:
    """Slices spread over the middle four fifths of the mask."""
    if stack < 0:
        return [0]
    index = grid.physical_to_index(points_of(mask.data[0] > 0, mask.grid))[:, stack]
    low, high = float(index.min()), float(index.max())
    margin = 0.1 * (high - low)
    last = grid.size[stack] - 1
    return [min(max(round(float(each)), 0), last) for each in np.linspace(low + margin, high - margin, SLICES)]


def _nearest(grid: Grid, stack: int, point: tuple[float, ...]) -> int:
    if stack < 0:
        return 0
    index = grid.physical_to_index(torch.tensor(point, dtype=torch.float64))[stack]
    return min(max(round(float(index)), 0), grid.size[stack] - 1)


def _physical(grid: Grid, stack: int, position: int) -> float:
    """Where a slice lies along its axis, physical (LPS); 0 for a picture."""
    if stack < 0:
        return 0.0
    return float(grid.centre[stack] + (position - (grid.size[stack] - 1) / 2) * grid.spacing[stack])


def _around(grid: Grid, plane: _Plane, point: tuple[float, ...], reach: float) -> Grid:
    """A square of the display grid around a point; it may reach beyond the images."""
    index = grid.physical_to_index(torch.tensor(point, dtype=torch.float64)).round()
    more = min(max(4, round(reach / grid.spacing[0])), max(grid.size))
    first, size = index.clone(), list(grid.size)
    for axis in range(grid.ndim):
        first[axis] = index[axis] - more if axis != plane.stack else index[axis]
        size[axis] = 2 * more + 1 if axis != plane.stack else 1
    return replace(grid, size=tuple(size), origin=tuple(grid.index_to_physical(first).tolist()))


def _slice(image: Image, grid: Grid, plane: _Plane, position: int, method: Method) -> Array:
    """`(height, width)`; the rows are turned where they are z (head up)."""
    if plane.stack >= 0:
        first = torch.zeros(grid.ndim, dtype=torch.float64)
        first[plane.stack] = position
        size = tuple(1 if axis == plane.stack else n for axis, n in enumerate(grid.size))
        grid = replace(grid, size=size, origin=tuple(grid.index_to_physical(first).tolist()))
    values = warp(image, None, grid, method).data[0]
    flat = values if plane.stack < 0 else values.squeeze(grid.ndim - 1 - plane.stack)
    array: Array = flat.numpy()
    return array[::-1] if plane.rows == 2 else array


def _grey(image: Image, grid: Grid, plane: _Plane, position: int) -> Array:
    return np.round(_slice(image, grid, plane, position, "linear") * 255).astype(np.uint8)


def _cut(maps: dict[str, Image], mask: Image, grid: Grid, plane: _Plane, position: int) -> dict[str, Array]:
    inside = _slice(mask, grid, plane, position, "nearest") > 0.5
    cut = {name: _slice(image, grid, plane, position, "nearest") for name, image in maps.items()}
    return {name: np.where(inside, values, np.nan).astype(np.float32) for name, values in cut.items()}
