"""Where voxels lie in space: size, spacing, origin and direction, in ITK's convention."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from regsim.errors import GridError

Unit = Literal["mm", "px"]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxel centres in physical space.

    Convention:
        `size`, `spacing`, `origin` and the columns of `direction` are in axis order x, y(, z), as in ITK; arrays are
        `(z, y, x)`, as SimpleITK gives them, so `shape` is `size` reversed. The world is LPS (x to the left, y to the
        back, z up). `physical = direction @ (spacing * index) + origin`. A picture without spacing has `unit` "px".

    Raises:
        GridError: a size below 1, a spacing that is not positive, a direction that cannot be inverted.

    Example:
        >>> grid = Grid((4, 3), (0.5, 2.0), (10.0, 20.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> grid.shape, grid.index_to_physical(torch.tensor([[1.0, 1.0]])).tolist()
        ((3, 4), [[10.5, 22.0]])
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]
    unit: Unit = "mm"

    def __post_init__(self) -> None:
        ndim = len(self.size)
        if ndim not in (2, 3):
            raise GridError(f"a grid has 2 or 3 axes, got {ndim}")
        if len(self.spacing) != ndim or len(self.origin) != ndim or np.shape(self.direction) != (ndim, ndim):
            raise GridError(
                f"size {self.size}, spacing {self.spacing}, origin {self.origin} and direction do not agree"
            )
        if min(self.size) < 1:
            raise GridError(f"a grid needs at least one voxel on each axis, got size {self.size}")
        numbers = [*self.spacing, *self.origin, *np.ravel(self.direction).tolist()]
        if not all(math.isfinite(value) for value in numbers) or min(self.spacing) <= 0:
            raise GridError(f"spacing must be positive and all geometry finite, got spacing {self.spacing}")
        if abs(np.linalg.det(np.asarray(self.direction))) < 1e-6:
            raise GridError("the direction (affine) cannot be inverted: its axes lie in one plane")

    @classmethod
    def of(cls, shape: tuple[int, ...], spacing: float | tuple[float, ...] = 1.0, unit: Unit = "mm") -> "Grid":
        """An axis-parallel grid at the origin for an array of this `(z, y, x)` shape; `spacing` is in x, y(, z)."""
        ndim = len(shape)
        spread = (float(spacing),) * ndim if isinstance(spacing, int | float) else tuple(float(s) for s in spacing)
        identity = tuple(tuple(float(i == j) for j in range(ndim)) for i in range(ndim))
        return cls(tuple(reversed(shape)), spread, (0.0,) * ndim, identity, unit)

    @classmethod
    def of_sitk(cls, image: sitk.Image, unit: Unit = "mm") -> "Grid":
        """The grid of a SimpleITK image."""
        ndim = image.GetDimension()
        direction = np.reshape(image.GetDirection(), (ndim, ndim))
        rows = tuple(tuple(float(value) for value in row) for row in direction)
        return cls(tuple(image.GetSize()), tuple(image.GetSpacing()), tuple(image.GetOrigin()), rows, unit)

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape, `(z, y, x)` or `(y, x)`."""
        return tuple(reversed(self.size))

    @property
    def voxels(self) -> int:
        """How many voxels."""
        return math.prod(self.size)

    @cached_property
    def matrix(self) -> Array:
        """Index (x, y, z) to physical, without the origin."""
        matrix: Array = np.asarray(self.direction) * np.asarray(self.spacing)[None, :]
        return matrix

    @cached_property
    def centre(self) -> Array:
        """The physical point in the middle."""
        centre: Array = self.matrix @ ((np.asarray(self.size) - 1) / 2) + np.asarray(self.origin)
        return centre

    @cached_property
    def extent(self) -> Array:
        """Physical length along each axis, outer voxel border to outer voxel border."""
        extent: Array = np.asarray(self.size) * np.asarray(self.spacing)
        return extent

    @property
    def radius(self) -> float:
        """Root mean square distance of the points from the centre: what one radian of rotation moves on average."""
        return float(np.sqrt((self.extent**2).sum() / 12))

    def index_to_physical(self, index: torch.Tensor) -> torch.Tensor:
        """Points `(..., ndim)` from index to physical coordinates, both x, y(, z)."""
        matrix = torch.as_tensor(self.matrix, dtype=index.dtype, device=index.device)
        return index @ matrix.T + torch.as_tensor(self.origin, dtype=index.dtype, device=index.device)

    def physical_to_index(self, points: torch.Tensor) -> torch.Tensor:
        """Points `(..., ndim)` from physical to (continuous) index coordinates, both x, y(, z)."""
        inverse = torch.as_tensor(np.linalg.inv(self.matrix), dtype=points.dtype, device=points.device)
        return (points - torch.as_tensor(self.origin, dtype=points.dtype, device=points.device)) @ inverse.T

    def indices(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> torch.Tensor:
        """The index (x, y, z) of every voxel, `(*shape, ndim)`."""
        axes = [torch.arange(n, dtype=dtype, device=device) for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)

    def points(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> torch.Tensor:
        """The physical point (x, y, z) of every voxel, `(*shape, ndim)`."""
        return linear_points(
            self.shape, torch.as_tensor(self.matrix), torch.tensor(self.origin, dtype=torch.float64), dtype, device
        )

    def corners(self) -> torch.Tensor:
        """The physical points of the outermost voxel centres, `(2^ndim, ndim)`, float64."""
        ends = [torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in self.size]
        return self.index_to_physical(torch.cartesian_prod(*ends))

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Which points lie within the voxels' outer borders."""
        index = self.physical_to_index(points)
        upper = torch.tensor(self.size, dtype=index.dtype, device=index.device) - 0.5
        return ((index >= -0.5) & (index <= upper)).all(dim=-1)

    def same_as(self, other: "Grid", tolerance: float = 1e-3) -> bool:
        """The same voxels in space, to within `tolerance` of a voxel at every corner."""
        if self.size != other.size:
            return False
        apart = (self.corners() - other.corners()).norm(dim=-1).max()
        return bool(apart <= tolerance * min(self.spacing))

    def with_spacing(self, spacing: tuple[float, ...]) -> "Grid":
        """A grid over the same extent (outer voxel borders) whose spacing is as near to `spacing` as whole voxels allow."""
        size = tuple(max(1, round(length / wanted)) for length, wanted in zip(self.extent, spacing, strict=True))
        actual = self.extent / np.asarray(size)
        shift = np.asarray(self.direction) @ ((actual - np.asarray(self.spacing)) / 2)
        origin = tuple((np.asarray(self.origin) + shift).tolist())
        return replace(self, size=size, spacing=tuple(actual.tolist()), origin=origin)

    def padded(self, voxels: int) -> "Grid":
        """A grid with this many voxels more on every side (fewer when negative)."""
        first = torch.full((self.ndim,), -float(voxels), dtype=torch.float64)
        origin = tuple(self.index_to_physical(first).tolist())
        return replace(self, size=tuple(n + 2 * voxels for n in self.size), origin=origin)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.size))
        spacing = " x ".join(f"{value:.4g}" for value in self.spacing)
        return f"{size} voxels of {spacing} {self.unit}"


def linear_points(
    shape: tuple[int, ...],
    matrix: torch.Tensor,
    origin: torch.Tensor,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """`matrix @ index + origin` for the index (x, y, z) of every voxel, `(*shape, ndim)`, differentiable.

    Each coordinate is a sum of one term an axis, which costs a fraction of a product of all indices with the matrix.

    Args:
        shape: of the image, z, y, x.
        matrix: `(ndim, ndim)`.
        origin: `(ndim,)`.
        dtype, device: of the points; `device`: where the matrix is unless given.

    Example:
        >>> linear_points((2, 2), torch.tensor([[1.0, 0.0], [0.5, 2.0]]), torch.tensor([10.0, 0.0])).tolist()
        [[[10.0, 0.0], [11.0, 0.5]], [[10.0, 2.0], [11.0, 2.5]]]
    """
    ones, device = [1] * len(shape), matrix.device if device is None else device
    points = origin.to(device, dtype).reshape(-1, *ones)
    for axis, (count, column) in enumerate(zip(shape, matrix.flip(1).T, strict=True)):
        index = torch.arange(count, dtype=matrix.dtype, device=matrix.device).reshape(-1, *ones[axis + 1 :])
        points = points + (column.reshape(-1, *ones) * index).to(device, dtype)
    return points.movedim(0, -1).contiguous()
