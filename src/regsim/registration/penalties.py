"""What keeps a deformation plausible: penalties on a displacement field, independent of the image."""

from collections.abc import Callable

import torch

from regsim.images.grid import Grid
from regsim.kernels.choice import on_cpu
from regsim.kernels.smoothness import shortfall, squared_slopes
from regsim.transforms.base import jacobian_determinant

Penalty = Callable[[torch.Tensor, Grid], torch.Tensor]


def diffusion(displacement: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Mean squared first derivative of `(*shape, ndim)`: `mean |grad u|^2`, no unit, >= 0, 0 for a translation."""
    if on_cpu(displacement):
        return squared_slopes(displacement, grid.spacing[::-1])
    total = displacement.new_zeros(())
    for dim, spacing in enumerate(reversed(grid.spacing)):
        if displacement.shape[dim] > 1:
            total = total + (displacement.diff(dim=dim) / spacing).square().sum(dim=-1).mean()
    return total


def bending(displacement: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Mean squared second derivatives, `mean sum_ij |d2u / dx_i dx_j|^2`, 1 / physical unit^2, >= 0, 0 for an affine map.

    References:
        Rueckert et al. 1999, doi:10.1109/42.796284.
    """
    spacing = grid.spacing[::-1]
    total = displacement.new_zeros(())
    for first in range(grid.ndim):
        slope = displacement.diff(dim=first) / spacing[first]
        for second in range(first, grid.ndim):
            if slope.shape[second] > 1:
                twice = 1.0 if first == second else 2.0
                total = total + twice * (slope.diff(dim=second) / spacing[second]).square().sum(dim=-1).mean()
    return total


def jacobian(displacement: torch.Tensor, grid: Grid, smallest: float = 0.2) -> torch.Tensor:
    """How far the Jacobian determinant falls below `smallest`, mean of the square: >= 0, 0 where nothing nearly folds."""
    if on_cpu(displacement):
        return shortfall(displacement, grid.matrix, smallest)
    determinant = jacobian_determinant(displacement + grid.points(displacement.dtype, displacement.device), grid)
    return (smallest - determinant).clamp_min(0).square().mean()


PENALTIES: dict[str, Penalty] = {"diffusion": diffusion, "bending": bending, "jacobian": jacobian}


def penalty(displacement: torch.Tensor, grid: Grid, weights: dict[str, float]) -> torch.Tensor:
    """The weighted sum of penalties on a displacement `(*shape, ndim)`."""
    total = displacement.new_zeros(())
    for name, weight in weights.items():
        if weight:
            total = total + weight * PENALTIES[name](displacement, grid)
    return total
