"""From disk to SimpleITK, checked: files and DICOM series."""

from pathlib import Path

import numpy as np
import PIL.Image
import SimpleITK as sitk

from regsim.errors import GridError, InputError
from regsim.images.formats import check_file, ending, reader_name
from regsim.images.nifti import Positions, check_nifti
from regsim.images.quiet import quiet

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def read_stored(path: Path) -> sitk.Image:
    """A file, or a folder with one DICOM series, as SimpleITK reads it; NaN stays NaN.

    Raises:
        InputError: missing, empty, truncated, of an unknown kind, 4-D; a folder without one whole series.
        GridError: geometry that no space can have.
    """
    check_file(path)
    return _read_series(path) if path.is_dir() else _read_file(path)


def _read_file(path: Path) -> sitk.Image:
    if ending(path) == ".png" and _is_grey_with_alpha(path):
        return _read_grey_with_alpha(path)
    nifti = ending(path) in (".nii", ".nii.gz")
    lost = check_nifti(path) if nifti else None
    reader = sitk.ImageFileReader()
    reader.SetImageIO(reader_name(path))
    reader.SetFileName(str(path))
    try:
        with quiet():
            reader.ReadImageInformation()
            if reader.GetDimension() > 3 and any(n > 1 for n in reader.GetSize()[3:]):
                size = " x ".join(map(str, reader.GetSize()))
                raise InputError(f"'{path}' has {reader.GetDimension()} axes ({size}); give one 3-D volume of it")
            stored = reader.Execute()
    except RuntimeError as problem:
        raise _unreadable(path, problem) from None
    stored = stored if stored.GetDimension() <= 3 else _first_volume(stored)
    return stored if lost is None or not lost.size else _with_nan(stored, lost)


def _is_grey_with_alpha(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(26)
    return head.startswith(b"\x89PNG") and head[25:] == b"\x04"


def _read_grey_with_alpha(path: Path) -> sitk.Image:
    """The one kind of PNG that SimpleITK cannot read; its alpha is left out."""
    if path.read_bytes()[24] == 16:
        raise InputError(f"'{path}' is 16-bit grey with alpha, which cannot be read; save it without alpha")
    try:
        with PIL.Image.open(path) as picture:
            return sitk.GetImageFromArray(np.asarray(picture.getchannel("L")))
    except (OSError, SyntaxError, ValueError):
        raise InputError(f"'{path}' cannot be read as .png: damaged, truncated, or another kind of file") from None


def _first_volume(stored: sitk.Image) -> sitk.Image:
    """A 4-D file whose further axes have length 1, as 3-D."""
    size = list(stored.GetSize())
    return sitk.Extract(stored, size[:3] + [0] * (len(size) - 3), [0] * len(size))


def _with_nan(stored: sitk.Image, positions: Positions) -> sitk.Image:
    """Put NaN back where the file holds no number; ITK's NIfTI reader has made it 0."""
    several = stored.GetNumberOfComponentsPerPixel() > 1
    array = sitk.GetArrayFromImage(stored)
    file_order = np.ascontiguousarray(np.moveaxis(array, -1, 0) if several else array)
    file_order.reshape(-1)[positions] = np.nan
    image = sitk.GetImageFromArray(np.moveaxis(file_order, 0, -1) if several else file_order, isVector=several)
    image.CopyInformation(stored)
    return image


def _unreadable(path: Path, problem: RuntimeError) -> InputError | GridError:
    """ITK's many lines as one of ours."""
    text = str(problem).lower()
    if any(word in text for word in ("orthonormal", "determinant", "direction", "zero-valued spacing")):
        return GridError(f"'{path}': its affine is not invertible or not orthonormal; repair the header's geometry")
    kind = "a DICOM series" if path.is_dir() else ending(path)
    return InputError(f"'{path}' cannot be read as {kind}: damaged, truncated, or another kind of file")


def _read_series(folder: Path) -> sitk.Image:
    """One DICOM series, its slices in the order of their positions and evenly spaced."""
    reader = sitk.ImageSeriesReader()
    with quiet():
        series = reader.GetGDCMSeriesIDs(str(folder))
        files = reader.GetGDCMSeriesFileNames(str(folder), series[0]) if len(series) == 1 else ()
    if len(series) > 1:
        raise InputError(
            f"folder '{folder}' holds {len(series)} DICOM series; expected one: put the wanted one in its own folder"
        )
    damaged = _dicom_files(folder) - {Path(name).name for name in files}
    if damaged:
        raise InputError(f"folder '{folder}': {min(damaged)} is a damaged or truncated DICOM file; copy it again")
    if not files:
        raise InputError(f"folder '{folder}' holds no DICOM series")
    try:
        with quiet():
            _check_slices(folder, files)
            reader.SetFileNames(files)
            return reader.Execute()
    except RuntimeError as problem:
        raise _unreadable(folder, problem) from None


def _dicom_files(folder: Path) -> set[str]:
    """The names of the files that say they are DICOM; the index of a disc is no slice."""
    found = set()
    for path in folder.iterdir():
        if path.is_file() and path.name.upper() != "DICOMDIR":
            with path.open("rb") as stream:
                if stream.read(132)[128:] == b"DICM":
                    found.add(path.name)
    return found


def _check_slices(folder: Path, files: tuple[str, ...]) -> None:
    """Slices must follow each other along their normal, in even steps."""
    places = []
    for name in files:
        reader = sitk.ImageFileReader()
        reader.SetFileName(name)
        reader.ReadImageInformation()
        places.append(reader.GetOrigin())
        normal = np.reshape(reader.GetDirection(), (3, 3))[:, 2]
    order = np.argsort(np.asarray(places) @ normal)
    apart = np.diff(np.asarray(places)[order], axis=0)
    steps = np.linalg.norm(apart, axis=1)
    if not len(steps):
        return
    where = f"folder '{folder}': slices"
    if steps.min() < 1e-3 * steps.max() or steps.max() == 0:
        raise InputError(f"{where} lie several at one position; put one volume in its own folder")
    if steps.max() - steps.min() > 0.05 * steps.mean():
        raise InputError(f"{where} are {steps.min():.3g} to {steps.max():.3g} mm apart; some are missing")
    if np.linalg.norm(apart - np.outer(apart @ normal, normal), axis=1).max() > 0.05 * steps.mean():
        raise GridError(f"{where} are not stacked along their normal (a tilted gantry); resample them upright first")
