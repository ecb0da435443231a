"""What the tests of files and commands share: small images on disk, and the command line run in this process."""

import locale
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error (also what C libraries wrote there)."""

    code: int
    out: str
    err: str

    def succeeded(self) -> "Outcome":
        assert self.code == 0, self.err
        assert self.err == ""
        return self

    def refused(self, *words: str, code: int = 2) -> "Outcome":
        """One line on standard error that holds all the words, and nothing else anywhere."""
        assert self.code == code, (self.code, self.out, self.err)
        assert self.out == ""
        assert self.err.startswith("regsim: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        assert "Error:" not in self.err
        assert all(word in self.err for word in words), (words, self.err)
        return self


Command = Callable[..., Outcome]


@dataclass(frozen=True)
class Samples:
    """Small good files: two 3-D volumes a few mm apart, two pictures a few pixels apart, and what goes with them."""

    folder: Path
    fixed: Path
    moving: Path
    mask: Path
    transform: Path
    picture: Path
    moved_picture: Path
    picture_transform: Path


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `regsim` with these arguments."""
    from regsim.cli.app import run

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        caught = capfd.readouterr()
        return Outcome(code, caught.out, caught.err)

    return call


def blobs(shape: tuple[int, ...], shift: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """A few Gaussian blobs, brightest 200, on a faint slope; `shift` in voxels of the array's axes."""
    axes = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float64) for n in shape], indexing="ij"), axis=-1)
    size = np.array(shape)
    generator = np.random.default_rng(3)
    image = 4.0 * axes[..., -1] / shape[-1]
    for _ in range(5):
        centre, width = (
            size * generator.uniform(0.3, 0.7, len(shape)) + shift,
            size.min() * generator.uniform(0.08, 0.2),
        )
        image += generator.uniform(60, 120) * np.exp(-((axes - centre) ** 2).sum(axis=-1) / (2 * width**2))
    return (image * 200 / image.max()).astype(np.float32)


def volume(array: npt.NDArray[np.generic], spacing: tuple[float, ...] = (1.0, 1.2, 1.5)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: image.GetDimension()])
    return image


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("samples")
    names = ("fixed.nii.gz", "moving.nii.gz", "mask.nii.gz", "shift.tfm", "fixed.png", "moving.png", "shift2.tfm")
    found = Samples(folder, *[folder / name for name in names])
    shape = (20, 22, 24)
    sitk.WriteImage(volume(blobs(shape, (0, 0, 0))), str(found.fixed))
    sitk.WriteImage(volume(blobs(shape, (1, -1.5, 2))), str(found.moving))
    sitk.WriteImage(volume((blobs(shape, (0, 0, 0)) > 10).astype(np.uint8)), str(found.mask))
    sitk.WriteTransform(sitk.TranslationTransform(3, (2.0, -1.8, 1.5)), str(found.transform))
    for path, shift in ((found.picture, (0, 0)), (found.moved_picture, (2, 3))):
        sitk.WriteImage(sitk.GetImageFromArray(np.round(blobs((48, 56), shift)).astype(np.uint8)), str(path))
    sitk.WriteTransform(sitk.TranslationTransform(2, (3.0, 2.0)), str(found.picture_transform))
    return found


def dicom_series(
    folder: Path, image: sitk.Image, series: str = "1.2.3", skip: tuple[int, ...] = (), first: int = 0
) -> Path:
    """Write a 3-D int16 image as one DICOM file a slice, as a scanner would; `skip` leaves slices out."""
    folder.mkdir(exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    turned = "\\".join(f"{direction[index]:.12g}" for index in (0, 3, 6, 1, 4, 7))
    tags = {"0008|0060": "MR", "0020|000d": "1.2", "0020|000e": series, "0020|0037": turned, "0008|0008": "ORIGINAL"}
    for number in range(image.GetSize()[2]):
        if number in skip:
            continue
        piece = image[:, :, number]
        place = image.TransformIndexToPhysicalPoint((0, 0, number))
        own = {"0020|0032": "\\".join(f"{value:.12g}" for value in place), "0020|0013": str(number)}
        own |= {"0008|0018": f"{series}.{number}", "0018|0050": f"{image.GetSpacing()[2]:.12g}"}
        for tag, value in {**tags, **own}.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{first + number:03d}.dcm"))
        writer.Execute(piece)
    locale.setlocale(locale.LC_ALL, before)  # GDCM sets it to C when it writes
    return folder


@pytest.fixture(scope="session")
def two_contrasts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with T1 and T2 of four made-up people."""
    folder = tmp_path_factory.mktemp("two-contrasts")
    for number, name in enumerate("abcd"):
        shown = blobs((24, 44, 40), (0.5 * number, 1.0 - number, number))
        for contrast, values in (("t1", shown), ("t2", shown.max() - shown)):
            image = volume(np.where(shown < 12, 0, values), (1.0, 1.0, 1.0))
            sitk.WriteImage(image, str(folder / f"{name}_{contrast}.nii.gz"))
    return folder
