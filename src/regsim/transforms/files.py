"""Transforms in files: ITK's own (ANTs, Slicer, SimpleITK) and flat displacement fields."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from regsim.errors import TransformError
from regsim.images.grid import Grid
from regsim.images.quiet import quiet
from regsim.images.stored import read_stored
from regsim.output import atomic_path
from regsim.transforms.base import Transform
from regsim.transforms.control_grid import MARGIN, ControlGrid
from regsim.transforms.dense import Composite, DisplacementField, on_grid, vector_image
from regsim.transforms.linear import SMALLEST_DETERMINANT, Affine, LinearTransform, Rigid, Similarity

ITK_ENDINGS = (".h5", ".hdf5", ".tfm", ".txt", ".mat", ".xfm")
FIELD_ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd")
ONE_MATRIX = (".mat", ".xfm")
RIGID_NAMES = (
    "Euler2DTransform",
    "Euler3DTransform",
    "VersorTransform",
    "VersorRigid3DTransform",
    "TranslationTransform",
)
SIMILARITY_NAMES = ("Similarity2DTransform", "Similarity3DTransform")
ROTATION_TOLERANCE = 1e-6
UNKNOWN_TO_SIMPLEITK = "a kind that SimpleITK does not know; save it as an affine transform or a displacement field"


def write_transform(transform: Transform, path: str | Path, like: Grid | None = None) -> None:
    """Write a transform in one piece.

    `.h5`, `.hdf5`, `.tfm` or `.txt`: ITK's format, each part as it is (B-splines stay B-splines; velocities are integrated).
    `.mat` or `.xfm` (3-D): one linear transform.
    `.nii.gz`, `.mha` or `.nrrd`: one flat displacement field on the grid `like` (LPS mm vectors; NIfTI intent 1007), as
    ANTs writes and reads.

    Raises:
        TransformError: an unknown ending, a field without a grid, or a transform that such a file cannot hold.
    """
    path = Path(path)
    if path.name.lower().endswith(FIELD_ENDINGS):
        if like is None:
            raise TransformError(f"'{path}': a displacement field needs the fixed image's grid")
        image = vector_image(on_grid(transform, like).field, like)
        with atomic_path(path) as part:
            sitk.WriteImage(image, str(part), useCompression=True)
        return
    if path.suffix not in ITK_ENDINGS:
        raise TransformError(f"'{path}': expected {', '.join(ITK_ENDINGS + FIELD_ENDINGS)}")
    if path.suffix in ONE_MATRIX and not isinstance(transform, LinearTransform):
        raise TransformError(f"'{path}': {path.suffix} holds one linear transform only; write a chain or field as .h5")
    if path.suffix == ".xfm" and transform.ndim != 3:
        raise TransformError(f"'{path}': .xfm holds 3-D transforms only; write a {transform.ndim}-D one as .h5")
    with atomic_path(path) as part:
        try:
            with quiet():
                sitk.WriteTransform(transform.to_itk(), str(part))
        except RuntimeError:
            raise TransformError(
                f"'{path}': ITK cannot write this transform as {path.suffix}; write it as .h5"
            ) from None


def read_transform(path: str | Path, ndim: int | None = None) -> Transform:
    """Read an ITK transform file or a displacement field image (as ANTs' `Warp.nii.gz`).

    Args:
        path: the file.
        ndim: what the images are; a transform of another dimension is an error.

    Raises:
        TransformError: missing, unreadable, of another dimension, not finite, or an affine that cannot be inverted.
    """
    path = Path(path)
    if not path.is_file():
        raise TransformError(f"transform '{path}' does not exist")
    try:
        with quiet():
            stored = _field_file(path) if path.name.lower().endswith(FIELD_ENDINGS) else sitk.ReadTransform(str(path))
    except RuntimeError:
        raise TransformError(f"'{path}' is not a transform that ITK can read, or is damaged") from None
    except KeyError:
        raise TransformError(f"transform '{path}': {UNKNOWN_TO_SIMPLEITK}") from None
    if ndim is not None and stored.GetDimension() != ndim:
        raise TransformError(f"transform '{path}' is {stored.GetDimension()}-D, the images are {ndim}-D")
    try:
        found = of_itk(stored)
    except TransformError as problem:
        raise TransformError(f"transform '{path}': {problem}") from None
    if not all(bool(torch.isfinite(values).all()) for values in found.parameters()):
        raise TransformError(f"transform '{path}' holds NaN or infinite numbers")
    return found.requires_grad_(False)


def of_itk(stored: sitk.Transform) -> Transform:
    """Our transform that maps as an ITK one does.

    Raises:
        TransformError: a kind that regsim does not know, or a matrix that cannot be inverted.
    """
    try:
        kind = stored.Downcast() if type(stored) is sitk.Transform else stored
    except KeyError:
        raise TransformError(UNKNOWN_TO_SIMPLEITK) from None
    if isinstance(kind, sitk.CompositeTransform):
        return _of_composite(kind)
    if isinstance(kind, sitk.DisplacementFieldTransform):
        image = kind.GetDisplacementField()
        vectors = sitk.GetArrayFromImage(image).astype(np.float32)
        return DisplacementField(torch.from_numpy(vectors).movedim(-1, 0), Grid.of_sitk(image))
    if isinstance(kind, sitk.BSplineTransform):
        return _control_grid(kind)
    if kind.IsLinear():
        return _linear(kind)
    raise TransformError(f"ITK transforms of the kind {kind.GetName()} are not known to regsim")


def _of_composite(kind: sitk.CompositeTransform) -> Transform:
    """Part by part. SimpleITK hides linear kinds that it has no class for (ANTs' own) in a composite within itself."""
    try:
        inner = [kind.GetNthTransform(index) for index in range(kind.GetNumberOfTransforms())]
    except KeyError:
        raise TransformError(UNKNOWN_TO_SIMPLEITK) from None
    if kind.IsLinear() and (not inner or any(isinstance(part, sitk.CompositeTransform) for part in inner)):
        return _linear(kind)
    parts = [of_itk(part) for part in inner]
    return parts[0] if len(parts) == 1 else Composite(parts)


def _linear(kind: sitk.Transform) -> LinearTransform:
    """Any linear ITK transform, probed by where it sends the corners of a unit cell."""
    ndim = kind.GetDimension()
    zero = np.array(kind.TransformPoint([0.0] * ndim))
    columns = [np.array(kind.TransformPoint(list(map(float, unit)))) - zero for unit in np.eye(ndim)]
    whole = torch.eye(ndim + 1, dtype=torch.float64)
    whole[:-1, :-1] = torch.as_tensor(np.stack(columns, axis=1))
    whole[:-1, -1] = torch.as_tensor(zero)
    if not abs(float(torch.linalg.det(whole))) > SMALLEST_DETERMINANT:
        raise TransformError("the affine transform is not invertible: its determinant is zero")
    centre = kind.GetCenter() if isinstance(kind, _CENTRED) else None
    return _class_of(kind.GetName(), whole[:-1, :-1])(ndim, centre).set_homogeneous(whole)


def _class_of(name: str, matrix: torch.Tensor) -> type[LinearTransform]:
    """The class that holds a matrix exactly: by ITK's name, and only where the matrix is what the name says."""
    determinant = float(torch.linalg.det(matrix))
    if determinant > 0:
        if name in RIGID_NAMES and _is_rotation(matrix):
            return Rigid
        if name in SIMILARITY_NAMES and _is_rotation(matrix / determinant ** (1 / len(matrix))):
            return Similarity
    return Affine


def _is_rotation(matrix: torch.Tensor) -> bool:
    off = matrix.T @ matrix - torch.eye(len(matrix), dtype=matrix.dtype)
    return float(off.abs().max()) <= ROTATION_TOLERANCE


_CENTRED = (
    sitk.AffineTransform,
    sitk.Euler2DTransform,
    sitk.Euler3DTransform,
    sitk.Similarity2DTransform,
    sitk.Similarity3DTransform,
    sitk.VersorRigid3DTransform,
)


def _control_grid(kind: sitk.BSplineTransform) -> ControlGrid:
    ndim, mesh = kind.GetDimension(), kind.GetTransformDomainMeshSize()
    if kind.GetOrder() != 3:
        raise TransformError(f"B-spline transforms of order {kind.GetOrder()} are not known to regsim; order 3 is")
    direction = np.reshape(kind.GetTransformDomainDirection(), (ndim, ndim))
    cell = np.asarray(kind.GetTransformDomainPhysicalDimensions()) / np.asarray(mesh)
    origin = np.asarray(kind.GetTransformDomainOrigin()) + direction @ (cell / 2)
    rows = tuple(tuple(float(value) for value in row) for row in direction)
    domain = Grid(tuple(mesh), tuple(cell.tolist()), tuple(origin.tolist()), rows)
    shape = (ndim, *(n + MARGIN for n in reversed(mesh)))
    return ControlGrid(domain, tuple(mesh), torch.tensor(kind.GetParameters(), dtype=torch.float64).reshape(shape))


def _field_file(path: Path) -> sitk.Transform:
    image = read_stored(path)
    if image.GetNumberOfComponentsPerPixel() != image.GetDimension():
        raise TransformError(f"'{path}' is an image, not a displacement field (one vector a voxel)")
    return sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
