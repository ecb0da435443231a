"""Learn2Reg's displacement fields: voxels of the moving image, on the fixed grid, in the order of the file's own axes."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from regsim.errors import GridError, InputError, TransformError
from regsim.images.formats import check_file, ending, reader_name
from regsim.images.grid import Grid
from regsim.images.nifti import check_nifti
from regsim.images.quiet import quiet
from regsim.output import atomic_path
from regsim.transforms.base import Transform
from regsim.transforms.dense import DisplacementField


def write_learn2reg(transform: Transform, path: str | Path, fixed: Grid, moving: Grid) -> None:
    """Write `to_learn2reg` as NIfTI `(x, y, z, ndim)`, the form that the challenge has used since 2022."""
    field = to_learn2reg(transform, fixed, moving)
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose()), isVector=False)
    with atomic_path(Path(path)) as part:
        sitk.WriteImage(image, str(part), useCompression=True)


def read_learn2reg(path: str | Path, fixed: Grid, moving: Grid) -> DisplacementField:
    """Read such a file.

    Raises:
        TransformError: missing, no NIfTI, truncated or damaged, not finite, or not of the fixed image's size.
    """
    path = Path(path)
    if not path.is_file():
        raise TransformError(f"transform '{path}' does not exist")
    if ending(path) not in (".nii", ".nii.gz"):
        raise TransformError(f"'{path}': a Learn2Reg field is a NIfTI file, .nii or .nii.gz")
    try:
        check_file(path)
        lost = check_nifti(path)
        with quiet():
            stored = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO=reader_name(path)))
    except (InputError, GridError) as problem:
        raise TransformError(str(problem)) from None
    except RuntimeError:
        raise TransformError(f"'{path}' is not a NIfTI file that can be read, or is damaged") from None
    if lost.size:
        raise TransformError(f"transform '{path}' holds NaN or infinite numbers")
    try:
        return of_learn2reg(stored.transpose(), fixed, moving)
    except TransformError as problem:
        raise TransformError(f"transform '{path}': {problem}") from None


def to_learn2reg(transform: Transform, fixed: Grid, moving: Grid) -> npt.NDArray[np.float32]:
    """As Learn2Reg exchanges fields: `(x, y, z, ndim)`, in voxels.

    Convention:
        `moving_index = fixed_index + field[fixed_index]`, indices and vector components both in the order of the array's
        own axes x, y, z (the order in which NIfTI files store them).
    """
    with torch.no_grad():
        index = moving.physical_to_index(transform.mapping(fixed)().double().cpu()) - fixed.indices(torch.float64)
    axes = tuple(range(fixed.ndim))[::-1]
    return np.ascontiguousarray(index.numpy().transpose(*axes, fixed.ndim).astype(np.float32))


def of_learn2reg(field: npt.NDArray[np.generic], fixed: Grid, moving: Grid) -> DisplacementField:
    """The other way round: from `(x, y, z, ndim)` voxels to physical vectors on the fixed grid.

    Raises:
        TransformError: the array does not fit the fixed grid, or is not finite.
    """
    if tuple(field.shape) != (*fixed.size, fixed.ndim):
        raise TransformError(f"expected a field of shape {(*fixed.size, fixed.ndim)}, got {tuple(field.shape)}")
    if not np.isfinite(field).all():
        raise TransformError("the field holds NaN or infinite numbers")
    axes = tuple(range(fixed.ndim))[::-1]
    vectors = torch.from_numpy(np.ascontiguousarray(field.transpose(*axes, fixed.ndim), dtype=np.float64))
    mapped = moving.index_to_physical(fixed.indices(torch.float64) + vectors)
    return DisplacementField((mapped - fixed.points(torch.float64)).movedim(-1, 0), fixed)
