"""Images, masks, label maps and landmarks: files in and out, through SimpleITK."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from regsim.errors import GridError, InputError
from regsim.images.formats import ENDINGS, PICTURES, check_file, ending
from regsim.images.grid import Grid, Unit
from regsim.images.image import Image
from regsim.output import atomic_path

Voxels = npt.NDArray[Any]
LUMINANCE = (0.2126, 0.7152, 0.0722)
sitk.ProcessObject.SetGlobalWarningDisplay(False)


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
    check_file(path)
    if spacing is None and path.is_file() and ending(path) in PICTURES:
        spacing = picture_spacing
    stored = _read_series(path) if path.is_dir() else _read_file(path)
    image = _to_image(stored, path, labels, spacing)
    if mask is not None:
        image = replace(image, mask=read_mask(mask, image))
    return image if labels else _finite(image, path)


def read_mask(path: str | Path, like: Image) -> torch.Tensor:
    """Read a mask for `like`: `(1, *shape)`, 1 where the file is above 0.

    Raises:
        GridError: it lies on another grid.
        InputError: it is empty, or cannot be read.
    """
    path = Path(path)
    check_file(path)
    stored = _to_image(
        _read_file(path), path, labels=False, spacing=like.grid.spacing if like.grid.unit == "px" else None
    )
    if not stored.grid.same_as(like.grid):
        raise GridError(
            f"mask '{path}' is on another grid ({stored.grid}) than '{like.name}' ({like.grid}); resample it"
        )
    mask = (stored.data[:1] > 0).float()
    if not bool(mask.any()):
        raise InputError(f"mask '{path}' is empty: no voxel is above 0")
    return mask


def write_image(image: Image, path: str | Path) -> None:
    """Write an image in one piece; the ending decides the format.

    Pictures: values within [0, 255] are rounded to 8 bit; others are kept as float32 in TIFF and scaled from [min, max] in
    PNG and JPEG.

    Raises:
        InputError: an ending that cannot be written, or a folder that does not exist.
    """
    path = Path(path)
    kind = writable_ending(path)
    stored = image.to_sitk()
    if kind in PICTURES:
        if image.ndim == 3:
            raise InputError(f"'{path}': a 3-D image cannot be written as a picture; use .nii.gz")
        stored = sitk.Cast(stored, sitk.sitkUInt8) if image.is_labels else _as_picture(image, kind)
    elif kind in (".mhd", ".nhdr"):
        raise InputError(f"'{path}': regsim writes single files; use .mha or .nrrd")
    with atomic_path(path) as part:
        sitk.WriteImage(stored, str(part), useCompression=True)


def writable_ending(path: Path) -> str:
    """The ending of a file to be written, checked before any work is done.

    Raises:
        InputError: not an image format.
    """
    kind = ending(path)
    if kind not in ENDINGS:
        raise InputError(f"'{path}': cannot write '{kind or 'no ending'}'; expected {', '.join(ENDINGS)}")
    return kind


def read_landmarks(path: str | Path) -> torch.Tensor:
    """Read landmarks, `(points, ndim)`, float64.

    Convention:
        A CSV file with columns x, y(, z) in physical LPS mm (pixels for pictures); other columns are ignored. RAS points
        must be turned (x and y negated) by whoever wrote them: nothing is guessed.

    Raises:
        InputError: missing file or columns, text that is no number, no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"landmarks '{path}': no such file")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    names = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name}
    if not {"x", "y"} <= set(names):
        raise InputError(f"landmarks '{path}': expected columns x, y(, z) and at least one row, got {list(names)}")
    axes = [names[axis] for axis in ("x", "y", "z") if axis in names]
    try:
        return torch.tensor([[float(row[axis]) for axis in axes] for row in rows], dtype=torch.float64)
    except (TypeError, ValueError):
        raise InputError(f"landmarks '{path}': a value of {', '.join(axes)} is not a number") from None


def write_landmarks(points: torch.Tensor, path: str | Path) -> None:
    """Write `(points, ndim)` as CSV with columns x, y(, z), physical LPS."""
    with atomic_path(Path(path)) as part, part.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "y", "z"][: points.shape[1]])
        writer.writerows(points.tolist())


def _read_file(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetDimension() > 3 and any(n > 1 for n in reader.GetSize()[3:]):
            raise InputError(f"'{path}' has {reader.GetDimension()} axes {reader.GetSize()}; give one 3-D volume of it")
        stored = reader.Execute()
    except RuntimeError as problem:
        raise _unreadable(path, problem) from None
    return stored if stored.GetDimension() <= 3 else _first_volume(stored)


def _first_volume(stored: sitk.Image) -> sitk.Image:
    """A 4-D file whose further axes have length 1, as 3-D."""
    size = list(stored.GetSize())
    return sitk.Extract(stored, size[:3] + [0] * (len(size) - 3), [0] * len(size))


def _unreadable(path: Path, problem: RuntimeError) -> InputError | GridError:
    """ITK's many lines as one of ours."""
    text = str(problem).lower()
    if "orthonormal" in text or "determinant" in text or "direction" in text:
        return GridError(f"'{path}': its affine is not invertible or not orthonormal; repair the header's geometry")
    return InputError(f"'{path}' cannot be read as {ending(path)}: damaged, truncated, or another kind of file")


def _read_series(folder: Path) -> sitk.Image:
    """One DICOM series, its slices in the order of their positions and evenly spaced."""
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = "no DICOM series" if not series else f"{len(series)} DICOM series; put the wanted one in its own folder"
        raise InputError(f"folder '{folder}' holds {found}")
    files = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    _check_slices(folder, files)
    reader.SetFileNames(files)
    try:
        return reader.Execute()
    except RuntimeError as problem:
        raise _unreadable(folder, problem) from None


def _check_slices(folder: Path, files: tuple[str, ...]) -> None:
    origins = []
    for name in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(name)
        reader.ReadImageInformation()
        origins.append(reader.GetOrigin())
    steps = np.linalg.norm(np.diff(np.asarray(origins), axis=0), axis=1)
    if len(steps) > 1 and steps.max() - steps.min() > 0.05 * steps.mean():
        raise InputError(
            f"folder '{folder}': slices are {steps.min():.3g} to {steps.max():.3g} mm apart; some are missing"
        )


def _to_image(stored: sitk.Image, path: Path, labels: bool, spacing: float | tuple[float, ...] | None) -> Image:
    picture = path.is_file() and ending(path) in PICTURES
    array = sitk.GetArrayFromImage(stored)
    channels = stored.GetNumberOfComponentsPerPixel()
    if np.iscomplexobj(array):
        raise InputError(f"'{path}' holds complex values; take their magnitude first")
    if channels > 1 and (array.dtype != np.uint8 and not picture):
        raise InputError(f"'{path}' holds {channels} values per voxel (a vector field?); expected one grey value")
    if channels > 1 and labels:
        raise InputError(f"'{path}' is in colour; a label map holds one whole number per voxel")
    grey = array if channels == 1 else _grey(array, channels)
    unit: Unit = "px" if picture and spacing is None else "mm"
    stored.SetSpacing(_spacing(stored, spacing, picture))
    grid = Grid.of_sitk(stored, unit)
    if min(grid.size) < 2:
        raise InputError(
            f"'{path}' is one voxel thin (size {' x '.join(map(str, grid.size))}); expected a 2-D or 3-D image"
        )
    data = torch.from_numpy(np.ascontiguousarray(grey, dtype=np.int64 if labels else np.float32))
    if labels and grey.dtype.kind == "f" and not np.array_equal(grey, np.round(grey)):
        raise InputError(f"'{path}' holds fractions; a label map holds whole numbers")
    return Image(data[None], grid, name=path.name)


def _grey(array: Voxels, channels: int) -> Voxels:
    """Rec. 709 luminance; grey with alpha keeps its grey."""
    return array[..., 0] if channels == 2 else array[..., :3].astype(np.float32) @ np.array(LUMINANCE, np.float32)


def _spacing(stored: sitk.Image, spacing: float | tuple[float, ...] | None, picture: bool) -> tuple[float, ...]:
    if spacing is None:
        return (1.0,) * stored.GetDimension() if picture else tuple(stored.GetSpacing())
    return (float(spacing),) * stored.GetDimension() if isinstance(spacing, int | float) else tuple(spacing)


def _as_picture(image: Image, kind: str) -> sitk.Image:
    """8 bit where the values fit in [0, 255]; else TIFF keeps float32 and the others are scaled from [min, max]."""
    low, high = float(image.data.min()), float(image.data.max())
    if low >= 0 and high <= 255:
        return sitk.Cast(image.with_data(image.data.round()).to_sitk(), sitk.sitkUInt8)
    if kind in (".tif", ".tiff"):
        return image.to_sitk()
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
