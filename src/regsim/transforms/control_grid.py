"""Free-form deformation: cubic B-splines on a control grid, exactly ITK's `BSplineTransform`."""

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from regsim.errors import TransformError
from regsim.images.grid import Grid
from regsim.transforms.base import Mapping, Transform
from regsim.transforms.dense import DisplacementField, on_grid

MARGIN = 3
SAMPLES_PER_CELL = 4
LARGEST_PADDING = 16


class ControlGrid(Transform):
    """Displacements on a coarse grid of control points, blended by cubic B-splines.

    `u(x) = sum_k c_k * prod_axis B3(t_axis - k_axis + 1)`, where `t` counts mesh cells from the domain's first corner.

    Convention:
        ITK's: the domain is covered by `mesh` cells, and `mesh + 3` control points lie on each axis, the first one cell
        before the domain. Outside the domain the displacement is zero.

    Args:
        domain: the grid whose extent (outer voxel borders) is to be covered.
        mesh: cells on each axis, x, y(, z).
        coefficients: `(ndim, *reversed(mesh + 3))` vectors, physical; zero where not given.

    References:
        Rueckert et al. 1999, doi:10.1109/42.796284.
    """

    def __init__(self, domain: Grid, mesh: tuple[int, ...], coefficients: torch.Tensor | None = None):
        super().__init__()
        if len(mesh) != domain.ndim or min(mesh) < 1:
            raise TransformError(f"expected {domain.ndim} mesh sizes of at least 1, got {mesh}")
        self.ndim = domain.ndim
        self.domain = domain
        self.mesh = tuple(mesh)
        shape = (self.ndim, *(n + MARGIN for n in reversed(mesh)))
        start = torch.zeros(shape) if coefficients is None else coefficients.detach().clone().float()
        if tuple(start.shape) != shape:
            raise TransformError(f"coefficients {tuple(start.shape)} do not fit a mesh of {mesh}; expected {shape}")
        self.coefficients = nn.Parameter(start)

    @classmethod
    def with_spacing(cls, domain: Grid, spacing: float) -> "ControlGrid":
        """Cells as near to `spacing` (physical units) as whole cells over the domain allow."""
        return cls(domain, tuple(max(1, round(length / spacing)) for length in domain.extent))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Map points `(..., ndim)`: the 4^ndim control points around each are gathered."""
        self._check(points)
        cells = self._cells(points.reshape(-1, self.ndim).to(self.coefficients.dtype))
        limit = torch.tensor(self.mesh, dtype=cells.dtype, device=cells.device)
        valid = ((cells >= -1e-6) & (cells <= limit + 1e-6)).all(dim=-1)
        base = torch.minimum(cells.floor().clamp_min(0), limit - 1)
        weights = cubic_weights(cells - base)
        moved = self._gather(base.long(), weights) * valid[:, None]
        return points + moved.reshape(points.shape).to(points.dtype)

    def mapping(self, grid: Grid) -> Mapping:
        """On a grid with the domain's axes the sum separates into one small matrix product per axis."""
        if not np.allclose(grid.direction, self.domain.direction, atol=1e-6):
            return super().mapping(grid)
        points = grid.points(self.coefficients.dtype, self.device)
        matrices = self.matrices(grid)
        return lambda: points + self.expand(matrices).movedim(0, -1)

    def matrices(self, grid: Grid) -> list[torch.Tensor]:
        """For each array axis (z, y, x) the weights `(voxels, mesh + 3)` of the control points."""
        first = self._cells(torch.as_tensor(grid.origin, dtype=torch.float64)[None])[0]
        cell = self.domain.extent / np.asarray(self.mesh)
        found = []
        for axis, voxels in enumerate(grid.size):
            position = first[axis] + torch.arange(voxels, dtype=torch.float64) * grid.spacing[axis] / cell[axis]
            base = position.floor().clamp(0, self.mesh[axis] - 1)
            valid = (position >= -1e-6) & (position <= self.mesh[axis] + 1e-6)
            weights = cubic_weights(position - base) * valid[:, None]
            matrix = torch.zeros(voxels, self.mesh[axis] + MARGIN, dtype=torch.float64)
            matrix.scatter_(1, base.long()[:, None] + torch.arange(4), weights)
            found.append(matrix.to(self.coefficients))
        return found[::-1]

    def expand(self, matrices: list[torch.Tensor]) -> torch.Tensor:
        """The displacement `(ndim, *shape)` on the grid that the matrices were made for."""
        field: torch.Tensor = self.coefficients
        for matrix in matrices:
            field = torch.tensordot(field, matrix, dims=([1], [1]))
        return field

    def refined(self) -> "ControlGrid":
        """The same displacement with twice as many cells on each axis (exact subdivision of the cubic B-spline)."""
        field: torch.Tensor = self.coefficients.detach()
        for cells in reversed(self.mesh):
            field = torch.tensordot(field, _subdivision(cells).to(field), dims=([1], [1]))
        return ControlGrid(self.domain, tuple(2 * n for n in self.mesh), field)

    def inverse(self, grid: Grid | None = None) -> DisplacementField:
        """The inverse as a displacement field on `grid`; where none is given, on one that covers the domain finely."""
        cells = self.domain.extent / np.asarray(self.mesh)
        fine = self.domain.with_spacing(tuple(np.minimum(self.domain.spacing, cells / SAMPLES_PER_CELL).tolist()))
        reach = float(self.coefficients.detach().abs().max()) / min(fine.spacing)
        return on_grid(self, fine).inverse(grid or fine.padded(min(int(reach) + 1, LARGEST_PADDING)))

    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """Coefficients are physical displacements."""
        return [(self.coefficients, 1.0)]

    def to_itk(self) -> sitk.Transform:
        """ITK's B-spline transform of order 3."""
        transform = sitk.BSplineTransform(self.ndim, 3)
        corner = self.domain.index_to_physical(torch.full((self.ndim,), -0.5, dtype=torch.float64))
        transform.SetTransformDomainDirection(np.ravel(self.domain.direction).tolist())
        transform.SetTransformDomainOrigin(corner.tolist())
        transform.SetTransformDomainPhysicalDimensions(self.domain.extent.tolist())
        transform.SetTransformDomainMeshSize(list(self.mesh))
        transform.SetParameters(self.coefficients.detach().cpu().double().flatten().tolist())
        return transform

    def _cells(self, points: torch.Tensor) -> torch.Tensor:
        """Physical points counted in mesh cells from the domain's first corner."""
        index = self.domain.physical_to_index(points) + 0.5
        scale = np.asarray(self.domain.spacing) * np.asarray(self.mesh) / self.domain.extent
        return index * torch.as_tensor(scale, dtype=index.dtype, device=index.device)

    def _gather(self, base: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Sum over the 4^ndim neighbours: `base` `(points, ndim)`, `weights` `(points, ndim, 4)`."""
        flat = self.coefficients.flatten(1)
        stride = [int(np.prod([n + MARGIN for n in self.mesh[:axis]])) for axis in range(self.ndim)]
        total = torch.zeros(base.shape[0], self.ndim, dtype=flat.dtype, device=flat.device)
        for corner in np.ndindex(*(4,) * self.ndim):
            index = sum((base[:, axis] + corner[axis]) * stride[axis] for axis in range(self.ndim))
            weight = torch.stack([weights[:, axis, corner[axis]] for axis in range(self.ndim)]).prod(dim=0)
            total = total + flat[:, index].T * weight[:, None]
        return total


def cubic_weights(fraction: torch.Tensor) -> torch.Tensor:
    """The four cubic B-spline weights `(..., 4)` at a fraction in [0, 1] of a cell."""
    rest = 1 - fraction
    return torch.stack(
        [
            rest**3 / 6,
            (3 * fraction**3 - 6 * fraction**2 + 4) / 6,
            (3 * rest**3 - 6 * rest**2 + 4) / 6,
            fraction**3 / 6,
        ],
        dim=-1,
    )


def _subdivision(cells: int) -> torch.Tensor:
    """`(2 cells + 3, cells + 3)`: the coefficients of the same spline on half the knot distance."""
    matrix = torch.zeros(2 * cells + MARGIN, cells + MARGIN, dtype=torch.float64)
    for new in range(2 * cells + MARGIN):
        # new control point `new` lies at (new - 1) / 2 old cells, old control point k at k - 1
        if new % 2:
            old = (new - 1) // 2 + 1
            matrix[new, old - 1 : old + 2] = torch.tensor([1.0, 6.0, 1.0]) / 8
        else:
            old = new // 2
            matrix[new, old : old + 2] = torch.tensor([4.0, 4.0]) / 8
    return matrix
