"""Rigid, similarity and affine transforms: `y = A (x - centre) + centre + translation`."""

from abc import abstractmethod
from typing import Self, final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import nn

from regsim.errors import TransformError
from regsim.images.grid import Grid, linear_points
from regsim.transforms.base import Transform

SMALLEST_DETERMINANT = 1e-6


class LinearTransform(Transform):
    """What the linear transforms share.

    `rotation` is an angle (2-D, radians, counter-clockwise in x, y) or a rotation vector (3-D: axis times radians).
    Parameters are float64, so that a millimetre far from the origin loses nothing.

    Args:
        ndim: 2 or 3.
        centre: the fixed point of rotation and scaling, physical.
    """

    centre: torch.Tensor

    def __init__(self, ndim: int, centre: npt.ArrayLike | None = None):
        super().__init__()
        if ndim not in (2, 3):
            raise TransformError(f"transforms are 2-D or 3-D, not {ndim}-D")
        self.ndim = ndim
        start = np.zeros(ndim) if centre is None else np.asarray(centre, dtype=np.float64)
        self.register_buffer("centre", torch.as_tensor(start).clone())
        self.translation = nn.Parameter(torch.zeros(ndim, dtype=torch.float64))

    @abstractmethod
    def matrix(self) -> torch.Tensor:
        """The matrix A, `(ndim, ndim)`, differentiable."""

    @abstractmethod
    def set_matrix(self, matrix: torch.Tensor) -> None:
        """Take the nearest matrix that this kind of transform can express."""

    @final
    def offset(self) -> torch.Tensor:
        """The vector b of `y = A x + b`."""
        return self.centre + self.translation - self.matrix() @ self.centre

    @final  # type: ignore[misc]
    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Map points `(..., ndim)`."""
        self._check(points)
        matrix, offset = self.matrix().T.to(points.dtype), self.offset().to(points.dtype)
        return torch.addmm(offset, points.reshape(-1, self.ndim), matrix).reshape(points.shape)

    def mapping(self, grid: Grid) -> "LinearMapping":
        """All points of `grid`, float32, mapped with the parameters of the moment."""
        return LinearMapping(self, grid)

    def set_homogeneous(self, homogeneous: torch.Tensor) -> Self:
        """Take over `(ndim + 1, ndim + 1)` in physical coordinates, as nearly as this kind can; returns itself."""
        matrix, offset = homogeneous[:-1, :-1].to(self.centre), homogeneous[:-1, -1].to(self.centre)
        image_of_centre = matrix @ self.centre + offset
        self.set_matrix(matrix)
        with torch.no_grad():
            self.translation.copy_(image_of_centre - self.centre)
        return self

    def homogeneous(self) -> torch.Tensor:
        """`(ndim + 1, ndim + 1)`, float64, physical coordinates, detached."""
        whole = torch.eye(self.ndim + 1, dtype=torch.float64)
        whole[:-1, :-1] = self.matrix().detach().cpu()
        whole[:-1, -1] = self.offset().detach().cpu()
        return whole

    def inverse(self, grid: Grid | None = None) -> "Affine":
        """The exact inverse.

        Raises:
            TransformError: the matrix is singular.
        """
        whole = self.homogeneous()
        if abs(float(torch.linalg.det(whole))) < SMALLEST_DETERMINANT:
            raise TransformError("this affine transform is not invertible: its determinant is zero")
        return Affine(self.ndim, self.centre.cpu().numpy()).set_homogeneous(torch.linalg.inv(whole))

    def to_itk(self) -> sitk.Transform:
        """An ITK transform of the same kind (Euler, Similarity or Affine)."""
        transform = self._itk_kind()
        transform.SetCenter(self.centre.tolist())
        transform.SetMatrix(self.matrix().detach().cpu().flatten().tolist())
        transform.SetTranslation(self.translation.detach().cpu().tolist())
        return transform

    @abstractmethod
    def _itk_kind(self) -> sitk.Transform:
        """An empty ITK transform of this kind."""


class LinearMapping:
    """The points of one grid under a linear transform, through one small matrix from index to moving space."""

    def __init__(self, transform: LinearTransform, grid: Grid):
        self.transform, self.shape = transform, grid.shape
        self.to_physical = torch.as_tensor(grid.matrix, device=transform.device)
        self.origin = torch.as_tensor(grid.origin, dtype=torch.float64, device=transform.device)

    def __call__(self) -> torch.Tensor:
        """`(*shape, ndim)`, float32."""
        matrix = self.transform.matrix()
        offset = matrix @ self.origin + self.transform.offset()
        return linear_points(self.shape, matrix @ self.to_physical, offset)


class Rigid(LinearTransform):
    """Rotation and translation: 3 parameters in 2-D, 6 in 3-D.

    Example:
        >>> turn = Rigid(2, centre=(1.0, 1.0))
        >>> turn.set_matrix(torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64))
        >>> turn(torch.tensor([[2.0, 1.0]])).round(decimals=4).tolist()
        [[1.0, 2.0]]
    """

    def __init__(self, ndim: int, centre: npt.ArrayLike | None = None):
        super().__init__(ndim, centre)
        self.rotation = nn.Parameter(torch.zeros(1 if ndim == 2 else 3, dtype=torch.float64))

    def matrix(self) -> torch.Tensor:
        """The rotation matrix."""
        return rotation_matrix(self.rotation)

    def set_matrix(self, matrix: torch.Tensor) -> None:
        """The rotation nearest to a matrix (polar decomposition)."""
        with torch.no_grad():
            self.rotation.copy_(rotation_vector(nearest_rotation(matrix)))

    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """One radian moves a point at `radius` by `radius`."""
        return [(self.translation, 1.0), (self.rotation, 1.0 / radius)]

    def _itk_kind(self) -> sitk.Transform:
        return sitk.Euler2DTransform() if self.ndim == 2 else sitk.Euler3DTransform()


class Similarity(Rigid):
    """Rotation, translation and one scale: 4 parameters in 2-D, 7 in 3-D. The scale is held as its logarithm."""

    def __init__(self, ndim: int, centre: npt.ArrayLike | None = None):
        super().__init__(ndim, centre)
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def matrix(self) -> torch.Tensor:
        """Scale times rotation."""
        return self.log_scale.exp() * rotation_matrix(self.rotation)

    def set_matrix(self, matrix: torch.Tensor) -> None:
        """The nearest rotation, and the scale with the same change of volume.

        Raises:
            TransformError: a mirror, or a singular matrix.
        """
        if float(torch.linalg.det(matrix)) < SMALLEST_DETERMINANT:
            raise TransformError("a similarity cannot mirror or flatten: the matrix has no positive determinant")
        super().set_matrix(matrix)
        with torch.no_grad():
            self.log_scale.copy_(torch.linalg.det(matrix).log() / self.ndim)

    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """As for a rotation; a scale of e moves a point at `radius` by about `radius`."""
        return [*super().steps(radius), (self.log_scale, 1.0 / radius)]

    def _itk_kind(self) -> sitk.Transform:
        return sitk.Similarity2DTransform() if self.ndim == 2 else sitk.Similarity3DTransform()


class Affine(LinearTransform):
    """Any matrix and a translation: 6 parameters in 2-D, 12 in 3-D."""

    def __init__(self, ndim: int, centre: npt.ArrayLike | None = None):
        super().__init__(ndim, centre)
        self.linear = nn.Parameter(torch.eye(ndim, dtype=torch.float64))

    def matrix(self) -> torch.Tensor:
        """The matrix itself."""
        return self.linear

    def set_matrix(self, matrix: torch.Tensor) -> None:
        """Exactly this matrix."""
        with torch.no_grad():
            self.linear.copy_(matrix)

    def steps(self, radius: float) -> list[tuple[nn.Parameter, float]]:
        """Each entry moves a point at `radius` by its change times the point's coordinate."""
        return [(self.translation, 1.0), (self.linear, 1.0 / radius)]

    def _itk_kind(self) -> sitk.Transform:
        return sitk.AffineTransform(self.ndim)


def rotation_matrix(rotation: torch.Tensor) -> torch.Tensor:
    """From an angle `(1,)` or a rotation vector `(3,)`, by the exponential of the antisymmetric matrix; differentiable."""
    zero = torch.zeros((), dtype=rotation.dtype, device=rotation.device)
    if rotation.numel() == 1:
        angle = rotation[0]
        return torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    x, y, z = rotation
    rows = [torch.stack([zero, -z, y]), torch.stack([z, zero, -x]), torch.stack([-y, x, zero])]
    matrix: torch.Tensor = torch.linalg.matrix_exp(torch.stack(rows))
    return matrix


def rotation_vector(matrix: torch.Tensor) -> torch.Tensor:
    """The angle `(1,)` or rotation vector `(3,)` of a rotation matrix; any turn up to half a circle."""
    from scipy.spatial.transform import Rotation

    if matrix.shape[0] == 2:
        return torch.atan2(matrix[1, 0], matrix[0, 0])[None]
    return torch.as_tensor(Rotation.from_matrix(matrix.detach().cpu().numpy()).as_rotvec()).to(matrix)


def nearest_rotation(matrix: torch.Tensor) -> torch.Tensor:
    """The proper rotation nearest to a matrix in the Frobenius norm."""
    left, _, right = torch.linalg.svd(matrix)
    signs = torch.ones(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    signs[-1] = torch.linalg.det(left @ right)
    rotation: torch.Tensor = left @ torch.diag(signs) @ right
    return rotation
