"""Reading values between voxels: differentiable, with respect to values and points."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from regsim.images.grid import Grid
from regsim.kernels.choice import on_cpu
from regsim.kernels.warp import hold, read_linear

Interpolation = Literal["linear", "nearest"]
Padding = Literal["zeros", "border"]
MODES = {"linear": "bilinear", "nearest": "nearest"}


def sample(
    data: torch.Tensor, grid: Grid, points: torch.Tensor, interpolation: Interpolation, padding: Padding
) -> torch.Tensor:
    """Read images at physical points.

    Args:
        data: `(N, C, *grid.shape)`.
        grid: where the values lie.
        points: `(*any, ndim)`, the same for all N.
        interpolation: "linear" or "nearest".
        padding: outside the outermost voxel centres: "zeros" (fading over one voxel) or the nearest "border" value.

    Returns:
        `(N, C, *any)`.
    """
    ndim = grid.ndim
    if interpolation == "linear" and on_cpu(data) and on_cpu(points):
        flat = read_linear(data.flatten(0, 1), points.reshape(-1, ndim), to_index(grid), padding == "zeros")
        return flat.reshape(*data.shape[:2], *points.shape[:-1])
    line = points.ndim != ndim + 1
    where = to_unit(points, grid)
    if line:
        where = where.reshape(*([1] * (ndim - 1)), -1, ndim)
    where = where[None].expand(data.shape[0], *where.shape)
    values: torch.Tensor = F.grid_sample(
        data, where, mode=MODES[interpolation], padding_mode=padding, align_corners=True
    )
    return values.reshape(*data.shape[:2], *points.shape[:-1]) if line else values


def to_index(grid: Grid) -> npt.NDArray[np.float64]:
    """The matrix `(ndim, ndim + 1)` from physical points to voxel indices, x first."""
    inverse = np.linalg.inv(grid.matrix)
    return np.concatenate([inverse, -(inverse @ np.asarray(grid.origin))[:, None]], axis=1)


def to_unit(points: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Physical points in torch's coordinates: -1 and 1 are the outermost voxel centres, x first."""
    size = torch.tensor([max(n - 1, 1) for n in grid.size], dtype=torch.float64)
    inverse = torch.linalg.inv(torch.as_tensor(grid.matrix))
    scale = (2.0 / size)[:, None] * inverse
    shift = -(scale @ torch.as_tensor(grid.origin, dtype=torch.float64)) - 1.0
    flat = points.reshape(-1, grid.ndim)
    return torch.addmm(shift.to(flat), flat, scale.T.to(flat)).reshape(points.shape)


def inside(grid: Grid, points: torch.Tensor) -> torch.Tensor:
    """Weights `(*any)`, 1 where a point lies between the voxel borders of the grid, 0 elsewhere; no gradient."""
    if on_cpu(points):
        return hold(points.reshape(-1, grid.ndim), to_index(grid), grid.size).reshape(points.shape[:-1])
    where = to_unit(points.detach(), grid)
    middle = torch.tensor([-1.0 if n == 1 else 0.0 for n in grid.size], dtype=where.dtype, device=where.device)
    limit = torch.tensor([1.0 if n == 1 else n / (n - 1) for n in grid.size], dtype=where.dtype, device=where.device)
    return ((where - middle).abs() <= limit).all(dim=-1).to(points.dtype)
