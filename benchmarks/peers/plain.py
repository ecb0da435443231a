"""What one writes first: the same formulas in plain torch, with automatic differentiation."""

import torch
import torch.nn.functional as F


def mse(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(moving, fixed)


def ncc(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation."""
    a, b = fixed - fixed.mean(), moving - moving.mean()
    return (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()


def grid_sample(moving: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """The moving image at points given in torch's own coordinates."""
    return F.grid_sample(moving, unit[None], mode="bilinear", padding_mode="border", align_corners=True)


def diffusion(displacement: torch.Tensor) -> torch.Tensor:
    """Mean squared slope of `(*shape, ndim)`, voxels of 1 mm."""
    axes = range(displacement.shape[-1])
    return sum((displacement.diff(dim=axis).square().sum(dim=-1).mean() for axis in axes), torch.zeros(()))


def bending(displacement: torch.Tensor) -> torch.Tensor:
    """Mean squared second derivatives of `(*shape, ndim)`, voxels of 1 mm."""
    total = torch.zeros(())
    for first in range(displacement.shape[-1]):
        slope = displacement.diff(dim=first)
        for second in range(first, displacement.shape[-1]):
            total = total + (2 - (first == second)) * slope.diff(dim=second).square().sum(dim=-1).mean()
    return total


def jacobian(displacement: torch.Tensor, smallest: float = 0.2) -> torch.Tensor:
    """Mean squared amount by which the determinant of a 3-D map falls below a limit, voxels of 1 mm."""
    slopes = [torch.gradient(displacement, dim=2 - axis)[0] for axis in range(3)]
    matrix = torch.stack(slopes, dim=-1) + torch.eye(3)
    return (smallest - torch.linalg.det(matrix)).clamp_min(0).square().mean()


def expand(coefficients: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """B-spline control points `(3, z, y, x)` to a field: one product an axis."""
    return torch.einsum("cijk,zi,yj,xk->czyx", coefficients, *matrices)
