"""Images, masks and label maps: files in and out, through SimpleITK."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from regsim.errors import GridError, InputError
from regsim.images.formats import ENDINGS, PICTURES, ending
from regsim.images.grid import Grid, Unit
from regsim.images.image import Image
from regsim.images.stored import read_stored
from regsim.output import atomic_path, check_target

Voxels = npt.NDArray[Any]
LUMINANCE = (0.2126, 0.7152, 0.0722)
SINGLE_FILES = tuple(kind for kind in ENDINGS if kind not in (".mhd", ".nhdr"))


def read_image(
    path: str | Path,
    *,
    labels: bool = False,
    mask: str | Path | None = None,
    spacing: float | tuple[float, ...] | None = None,
    picture_spacing: float | None = None,
) -> Image:
    """Read NIfTI, MetaImage, NRRD, a DICOM series folder, or a PNG / JPEG / TIFF picture.

    Convention:
        Colour becomes grey by Rec. 709 luminance, 0.2126 R + 0.7152 G + 0.0722 B; an alpha channel is left out. Pictures
        are in pixels, whatever print resolution their file states, unless `spacing` says otherwise. Values stay as stored
        (with the file's slope and intercept), as float32.

    Args:
        path: a file, or a folder with one DICOM series.
        labels: whole numbers that name regions, kept as int64.
        mask: a file on the same grid; voxels above 0 count.
        spacing: mm, x, y(, z) or one number; overrides the file's.
        picture_spacing: mm; as `spacing`, but for PNG, JPEG and TIFF only.

    Raises:
        InputError: missing, truncated, empty, 4-D, one voxel thin, not finite outside the mask, of an unknown kind.
        GridError: geometry that no space can have, or a mask of another grid.
    """
    path = Path(path)
    stored = read_stored(path)
    if spacing is None and _is_picture(path):
        spacing = picture_spacing
    image = _to_image(stored, path, labels, spacing)
    if mask is not None:
        image = replace(image, mask=read_mask(mask, image))
    return image if labels else _finite(image, path)


def read_mask(path: str | Path, like: Image, may_be_empty: bool = False) -> torch.Tensor:
    """Read a mask for `like`: `(1, *shape)`, 1 where the file is above 0.

    Raises:
        GridError: it lies on another grid.
        InputError: it is empty (unless it may be), or cannot be read.
    """
    path = Path(path)
    own = read_stored(path)
    if own.GetDimension() != like.ndim:
        raise GridError(f"mask '{path}' is {own.GetDimension()}-D, '{like.name}' is {like.ndim}-D")
    flat = like.grid.unit == "px" or _is_picture(path)
    stored = _to_image(own, path, labels=False, spacing=like.grid.spacing if flat else None)
    if not stored.grid.same_as(like.grid):
        raise GridError(
            f"mask '{path}' is on another grid ({stored.grid}) than '{like.name}' ({like.grid}); resample it"
        )
    mask = (stored.data[:1] > 0).float()
    if not may_be_empty and not bool(mask.any()):
        raise InputError(f"mask '{path}' is empty: no voxel is above 0")
    return mask


def write_image(image: Image, path: str | Path) -> None:
    """Write an image in one piece; the ending decides the format.

    Pictures: whole numbers, and values that reach above 1, are rounded to 8 bit (up to 255) or 16 bit (up to 65535).
    All others are kept as float32 in TIFF, and scaled from [min, max] to 8 bit in PNG and JPEG. Labels are never changed.

    Raises:
        InputError: an ending or a folder that cannot be written, a 3-D picture, labels that the format cannot hold.
    """
    path = Path(path)
    kind = writable_ending(path, image.ndim)
    stored = _as_picture(image, path, kind) if kind in PICTURES else image.to_sitk()
    with atomic_path(path) as part:
        try:
            sitk.WriteImage(stored, str(part), useCompression=True)
        except RuntimeError:
            raise InputError(f"cannot write '{path}': no space left, or values that {kind} cannot hold") from None


def writable_ending(path: Path, ndim: int | None = None) -> str:
    """The ending of a file to be written, checked before any work is done; `ndim` where it is known.

    Raises:
        InputError: not an image format, not in one file, a 3-D picture, or a folder that does not exist.
    """
    kind = ending(path)
    if kind not in SINGLE_FILES:
        raise InputError(f"'{path}': cannot write '{kind or 'no ending'}'; expected {', '.join(SINGLE_FILES)}")
    if ndim == 3 and kind in PICTURES:
        raise InputError(f"'{path}': a 3-D image cannot be written as a picture; use .nii.gz")
    check_target(path)
    return kind


def eight_bit(image: Image) -> bool:
    """Whether the values read as 8-bit grey: within [0, 255], and not fractions of 1."""
    low, high = float(image.data.min()), float(image.data.max())
    return low >= 0 and 1 < high <= 255


def _is_picture(path: Path) -> bool:
    return path.is_file() and ending(path) in PICTURES


def _to_image(stored: sitk.Image, path: Path, labels: bool, spacing: float | tuple[float, ...] | None) -> Image:
    picture = _is_picture(path)
    array = sitk.GetArrayFromImage(stored)
    channels = stored.GetNumberOfComponentsPerPixel()
    if np.iscomplexobj(array):
        raise InputError(f"'{path}' holds complex values; take their magnitude first")
    if channels > 1 and not (channels in (3, 4) and (array.dtype == np.uint8 or picture)):
        raise InputError(f"'{path}' holds {channels} values per voxel (a vector field?); expected one grey value")
    if channels > 1 and labels:
        raise InputError(f"'{path}' is in colour; a label map holds one whole number per voxel")
    grey = array if channels == 1 else _grey(array)
    unit: Unit = "px" if picture and spacing is None else "mm"
    stored.SetSpacing(_spacing(stored, spacing, picture))
    grid = Grid.of_sitk(stored, unit)
    if min(grid.size) < 2:
        raise InputError(
            f"'{path}' is one voxel thin (size {' x '.join(map(str, grid.size))}); expected a 2-D or 3-D image"
        )
    if labels and grey.dtype.kind == "f" and not np.array_equal(grey, np.round(grey)):
        raise InputError(f"'{path}' holds fractions or NaN; a label map holds whole numbers")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(grey, dtype=np.int64 if labels else np.float32)
    return Image(torch.from_numpy(values)[None], grid, name=path.name)


def _grey(array: Voxels) -> Voxels:
    """Rec. 709 luminance; alpha is left out."""
    return array[..., :3].astype(np.float32) @ np.array(LUMINANCE, np.float32)


def _spacing(stored: sitk.Image, spacing: float | tuple[float, ...] | None, picture: bool) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * stored.GetDimension() if picture else tuple(stored.GetSpacing())
    return (float(spacing),) * stored.GetDimension() if isinstance(spacing, int | float) else tuple(spacing)


def _as_picture(image: Image, path: Path, kind: str) -> sitk.Image:
    low, high = float(image.data.min()), float(image.data.max())
    jpeg = kind in (".jpg", ".jpeg")
    if image.is_labels:
        if jpeg or low < 0 or high > 65535:
            raise InputError(f"'{path}': labels from {low:g} to {high:g} do not fit; use .nii.gz (or .png to 65535)")
        return sitk.Cast(image.to_sitk(), sitk.sitkUInt8 if high <= 255 else sitk.sitkUInt16)
    whole = bool((image.data == image.data.round()).all())
    if eight_bit(image) or (low >= 0 and high <= 1 and whole):
        return sitk.Cast(image.with_data(image.data.round()).to_sitk(), sitk.sitkUInt8)
    if kind in (".tif", ".tiff"):
        return image.to_sitk()
    if not jpeg and low >= 0 and 255 < high <= 65535:
        return sitk.Cast(image.with_data(image.data.round()).to_sitk(), sitk.sitkUInt16)
    scaled = (image.data - low) / max(high - low, 1e-12) * 255
    return sitk.Cast(image.with_data(scaled.round()).to_sitk(), sitk.sitkUInt8)


def _finite(image: Image, path: Path) -> Image:
    bad = ~torch.isfinite(image.data)
    if not bool(bad.any()):
        return image
    seen = bad if image.mask is None else bad & (image.mask > 0)
    if bool(seen.any()):
        where = "" if image.mask is None else " inside its mask"
        raise InputError(f"'{path}': {int(seen.sum())} of {bad.numel()} voxels are NaN or infinite{where}; mask them")
    return image.with_data(torch.where(bad, torch.zeros_like(image.data), image.data))
