"""What every transform promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import SimpleITK as sitk
import torch
from torch import nn

from regsim.errors import TransformError
from regsim.images.grid import Grid

Mapping = Callable[[], torch.Tensor]


class Transform(nn.Module, ABC):
    """A map of physical points of the fixed image to physical points of the moving image.

    Convention:
        ITK's resampling direction: `transform(points)` says where in the moving image the value for a fixed point is found.
        Points are `(..., ndim)`, x, y(, z), LPS mm (pixels for pictures without spacing).
    """

    ndim: int

    @abstractmethod
    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Map points `(..., ndim)`."""

    @abstractmethod
    def inverse(self, grid: Grid | None = None) -> "Transform":
        """The opposite map. One without a closed form is inverted on a grid: the moving image's, or its own where not given.

        Raises:
            TransformError: it cannot be inverted.
        """

    @abstractmethod
    def to_itk(self) -> sitk.Transform:
        """The same map as an ITK transform."""

    @abstractmethod
    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """Each parameter with the change of it that moves points at `radius` from the centre by about one unit (mm)."""

    def mapping(self, grid: Grid) -> Mapping:
        """A function without arguments that maps all points of `grid` with the parameters of the moment.

        What depends on the grid alone is computed once: the optimiser calls this at the start of each level.
        """
        points = grid.points(self.dtype, self.device)
        return lambda: self(points)

    @property
    def dtype(self) -> torch.dtype:
        """The type that parameters are held in."""
        return next(tensor.dtype for tensor in [*self.parameters(), *self.buffers(), torch.zeros(())])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(tensor.device for tensor in [*self.parameters(), *self.buffers(), torch.zeros(())])

    def displacement(self, grid: Grid) -> torch.Tensor:
        """`T(x) - x` for every voxel of the grid, `(*shape, ndim)`, physical units."""
        return self.mapping(grid)() - grid.points(self.dtype, self.device)

    def jacobian_determinant(self, grid: Grid) -> torch.Tensor:
        """Local change of volume, `(*shape)`: 1 = none, <= 0 = folded. Central differences (one-sided at the border)."""
        return jacobian_determinant(self.mapping(grid)(), grid)

    def _check(self, points: torch.Tensor) -> None:
        if points.shape[-1] != self.ndim:
            raise TransformError(f"a {self.ndim}-D transform cannot map {points.shape[-1]}-D points")


def jacobian_determinant(mapped: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Determinant of the derivative of mapped points `(*shape, ndim)` with respect to the grid's physical points.

    Differences along an axis of one voxel count as those of the identity.
    """
    columns = []
    for axis in range(grid.ndim):
        dim = grid.ndim - 1 - axis
        step = torch.as_tensor(grid.matrix[:, axis], dtype=mapped.dtype, device=mapped.device)
        if mapped.shape[dim] > 1:
            columns.append(torch.gradient(mapped, dim=dim)[0])
        else:
            columns.append(step.expand_as(mapped))
    by_index = torch.stack(columns, dim=-1)
    determinant = _determinant(by_index)
    return determinant / float(torch.linalg.det(torch.as_tensor(grid.matrix)))


def _determinant(matrix: torch.Tensor) -> torch.Tensor:
    """Determinant of `(..., 2, 2)` or `(..., 3, 3)`, written out: far faster than a factorisation a voxel."""
    if matrix.shape[-1] == 2:
        return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    first, second, third = matrix.unbind(dim=-1)
    product: torch.Tensor = (first * torch.linalg.cross(second, third, dim=-1)).sum(dim=-1)
    return product
