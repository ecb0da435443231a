"""Deformable transforms: displacement field, stationary velocity field, and a chain of transforms."""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from torch import nn

from regsim.errors import TransformError
from regsim.images.grid import Grid
from regsim.kernels.choice import on_cpu
from regsim.kernels.squaring import scaling_and_squaring
from regsim.transforms.base import Mapping, Transform
from regsim.transforms.sampling import sample

INVERSION_STEPS = 50
INVERSION_TOLERANCE = 1e-4


class DisplacementField(Transform):
    """One displacement vector a voxel: `y = x + u(x)`, linear between voxels, zero outside the grid (as in ITK).

    Args:
        field: `(ndim, *grid.shape)`, physical vectors x, y(, z).
        grid: where the vectors lie.
    """

    def __init__(self, field: torch.Tensor, grid: Grid):
        super().__init__()
        if tuple(field.shape) != (grid.ndim, *grid.shape):
            raise TransformError(f"field {tuple(field.shape)} does not fit a grid of shape {grid.shape}")
        self.ndim = grid.ndim
        self.grid = grid
        self.field = nn.Parameter(field.detach().clone().float())

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Map points `(..., ndim)`."""
        self._check(points)
        return points + sample_vectors(self.field, self.grid, points).to(points.dtype)

    def mapping(self, grid: Grid) -> Mapping:
        """On its own grid the field is read, not interpolated."""
        if not grid.same_as(self.grid):
            return super().mapping(grid)
        points = grid.points(self.field.dtype, self.device)
        return lambda: points + self.field.movedim(0, -1)

    def inverse(self, grid: Grid | None = None) -> "DisplacementField":
        """The inverse on `grid` (its own where none is given)."""
        return invert_field(self.field, self.grid, grid or self.grid)

    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """The vectors are in physical units already."""
        return [(self.field, 1.0)]

    def to_itk(self) -> sitk.Transform:
        """ITK's displacement field transform."""
        return sitk.DisplacementFieldTransform(sitk.Cast(self._field_image(), sitk.sitkVectorFloat64))

    def _field_image(self) -> sitk.Image:
        return vector_image(self.field, self.grid)


class VelocityField(Transform):
    """A stationary velocity field, integrated over unit time: smooth velocities give a map that does not fold.

    `y = exp(v)(x)`, by scaling and squaring: `u = v / 2^steps`, then `steps` times `u(x) <- u(x) + u(x + u(x))`.

    Args:
        velocity: `(ndim, *grid.shape)`, physical units per unit time.
        grid: where the vectors lie.
        squarings: how often to square; 6 keeps single steps below a voxel for displacements up to 60 voxels.

    References:
        Arsigny et al. 2006, doi:10.1007/11866565_113. Ashburner 2007, doi:10.1016/j.neuroimage.2007.07.007.
    """

    def __init__(self, velocity: torch.Tensor, grid: Grid, squarings: int = 6):
        super().__init__()
        if tuple(velocity.shape) != (grid.ndim, *grid.shape):
            raise TransformError(f"velocity {tuple(velocity.shape)} does not fit a grid of shape {grid.shape}")
        self.ndim = grid.ndim
        self.grid = grid
        self.squarings = squarings
        self.velocity = nn.Parameter(velocity.detach().clone().float())

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Map points `(..., ndim)`."""
        self._check(points)
        return points + sample_vectors(self.integrate(), self.grid, points).to(points.dtype)

    def mapping(self, grid: Grid) -> Mapping:
        """On its own grid the integrated field is read, not interpolated."""
        points = grid.points(self.velocity.dtype, self.device)
        if grid.same_as(self.grid):
            return lambda: points + integrate(self.velocity, self.grid, self.squarings).movedim(0, -1)
        return lambda: self(points)

    def integrate(self) -> torch.Tensor:
        """The displacement `(ndim, *shape)` on the field's own grid."""
        return integrate(self.velocity, self.grid, self.squarings)

    def inverse(self, grid: Grid | None = None) -> "VelocityField":
        """The opposite velocity."""
        return VelocityField(-self.velocity, self.grid, self.squarings)

    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """Unit time: a velocity of 1 mm moves by about 1 mm."""
        return [(self.velocity, 1.0)]

    def to_displacement(self) -> DisplacementField:
        """The integrated field."""
        return DisplacementField(self.integrate(), self.grid)

    def to_itk(self) -> sitk.Transform:
        """The integrated field as ITK's displacement field transform: ITK has no stationary velocity in its files."""
        return self.to_displacement().to_itk()


class Composite(Transform):
    """A chain: the LAST of the list is applied to a point first, as in ITK's composite transform.

    Example:
        `Composite([affine, warp])` maps `x` to `affine(warp(x))`.
    """

    def __init__(self, transforms: Sequence[Transform]):
        super().__init__()
        if not transforms:
            raise TransformError("a chain needs at least one transform")
        if len({transform.ndim for transform in transforms}) > 1:
            raise TransformError("a chain cannot mix 2-D and 3-D transforms")
        self.ndim = transforms[0].ndim
        self.transforms = nn.ModuleList(transforms)

    def parts(self) -> list[Transform]:
        """The transforms, outermost first."""
        return [part for part in self.transforms if isinstance(part, Transform)]

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Map points `(..., ndim)`."""
        self._check(points)
        for part in reversed(self.parts()):
            points = part(points)
        return points

    def mapping(self, grid: Grid) -> Mapping:
        """The innermost transform's own mapping, then the others point by point."""
        inner = self.parts()[-1].mapping(grid)
        outer = self.parts()[-2::-1] if len(self.parts()) > 1 else []

        def mapped() -> torch.Tensor:
            points = inner()
            for part in outer:
                points = part(points)
            return points

        return mapped

    def inverse(self, grid: Grid | None = None) -> "Composite":
        """The inverses in the opposite order. Only the outermost part is inverted on `grid`: the others act in fixed space."""
        outer, *inner = self.parts()
        return Composite([*(part.inverse() for part in reversed(inner)), outer.inverse(grid)])

    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """The parameters of every part."""
        return [pair for part in self.parts() for pair in part.steps(radius)]

    def to_itk(self) -> sitk.Transform:
        """ITK's composite transform."""
        return sitk.CompositeTransform([part.to_itk() for part in self.parts()])


def integrate(velocity: torch.Tensor, grid: Grid, squarings: int) -> torch.Tensor:
    """Scaling and squaring of a velocity `(ndim, *grid.shape)`: the displacement, alike."""
    if on_cpu(velocity):
        return scaling_and_squaring(velocity, grid.matrix, squarings).movedim(-1, 0)
    points = grid.points(velocity.dtype, velocity.device)
    field: torch.Tensor = velocity / 2**squarings
    for _ in range(squarings):
        field = field + sample_vectors(field, grid, points + field.movedim(0, -1)).movedim(-1, 0)
    return field


def sample_vectors(field: torch.Tensor, grid: Grid, points: torch.Tensor) -> torch.Tensor:
    """Vectors `(ndim, *shape)` read at points `(..., ndim)`, linear, zero outside: `(..., ndim)`."""
    flat = points.to(field.dtype)
    vectors: torch.Tensor = sample(field[None], grid, flat, "linear", "zeros")[0].movedim(0, -1)
    return vectors


def vector_image(field: torch.Tensor, grid: Grid) -> sitk.Image:
    """Vectors `(ndim, *shape)` as a SimpleITK vector image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.detach().cpu().movedim(0, -1).numpy()), isVector=True)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.ravel(grid.direction).tolist())
    return image


def on_grid(transform: Transform, grid: Grid) -> DisplacementField:
    """Any transform as one displacement field on a grid."""
    with torch.no_grad():
        return DisplacementField(transform.displacement(grid).movedim(-1, 0).float(), grid)


def invert_field(field: torch.Tensor, own: Grid, grid: Grid) -> DisplacementField:
    """The inverse of `x + u(x)` on a grid, by fixed-point iteration from the best affine guess.

    `x <- x - (T(x) - y)` for every point y of `grid`; it converges where the displacement changes by less than itself over
    the same distance, which a map without folds of moderate size fulfils. Outside its own grid the field goes on with its
    border values: nothing is known there, and a field that carries a shift would else be torn at the border.

    Args:
        field: `(ndim, *own.shape)`.
        own: where the field lies (fixed space).
        grid: where the inverse is wanted (moving space).

    Raises:
        TransformError: more than one in a hundred points end further than half a voxel from the truth.
    """

    def mapped(points: torch.Tensor) -> torch.Tensor:
        return points + sample(field[None], own, points, "linear", "border")[0].movedim(0, -1)

    with torch.no_grad():
        field = field.detach()
        wanted = grid.points(torch.float32, field.device)
        found = _affine_guess(field, own, wanted)
        for _ in range(INVERSION_STEPS):
            error = mapped(found) - wanted
            found = found - error
            if float(error.abs().max()) < INVERSION_TOLERANCE:
                break
        lost = torch.linalg.vector_norm(mapped(found) - wanted, dim=-1) > 0.5 * min(grid.spacing)
    if float(lost.float().mean()) > 0.01:
        raise TransformError(f"the transform cannot be inverted: it folds or tears at {int(lost.sum())} points")
    return DisplacementField((found - wanted).movedim(-1, 0), grid)


def _affine_guess(field: torch.Tensor, own: Grid, wanted: torch.Tensor) -> torch.Tensor:
    """Where the points would come from if the map were its best affine fit (least squares over the field's grid)."""
    step = max(1, own.voxels // 20_000)
    here = own.points(torch.float64, field.device).flatten(0, -2)[::step]
    there = here + field.flatten(1).T[::step].double()
    centre = there.mean(dim=0)
    ones = torch.ones(there.shape[0], 1, dtype=torch.float64, device=field.device)
    fit = torch.linalg.lstsq(torch.cat([there - centre, ones], dim=1), here).solution
    guess: torch.Tensor = (wanted.double() - centre) @ fit[:-1] + fit[-1]
    return guess.float()
