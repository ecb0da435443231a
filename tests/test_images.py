"""Files in and out: geometry as SimpleITK has it, pictures, masks, labels, landmarks, and writing in one piece."""

import os
import stat
import threading
import tomllib
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import SimpleITK as sitk
import torch

from regsim.errors import GridError, InputError, SettingsError
from regsim.evaluation.results import MetricRow
from regsim.images import Grid, Image, read_image, read_landmarks, read_mask, write_image, write_landmarks
from regsim.images.quiet import quiet
from regsim.output import atomic_path, check_folder, make_folder, staged
from regsim.registration.schedule import Schedule

from .conftest import blobs, dicom_series, volume

TURN = sitk.VersorRigid3DTransform()
TURN.SetRotation((0.2, 0.9, 0.4), 0.5)
OBLIQUE = np.reshape(TURN.GetMatrix(), (3, 3))
DIRECTIONS = {
    "upright": np.eye(3),
    "oblique": OBLIQUE,
    "left-handed": OBLIQUE @ np.diag([1.0, 1.0, -1.0]),
    "axes swapped": np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),
}


def placed(array: npt.NDArray[np.generic], direction: npt.NDArray[np.float64]) -> sitk.Image:
    image = volume(array, (0.7, 1.3, 2.9))
    image.SetOrigin((-40.0, 12.5, 7.25))
    image.SetDirection(direction.ravel().tolist())
    return image


def assert_same_space(image: Image, truth: sitk.Image, tolerance: float = 1e-4) -> None:
    """Every corner, and a point between voxels, lies where SimpleITK puts it."""
    ndim, size = truth.GetDimension(), truth.GetSize()
    assert image.grid.size == size
    indices = [*np.ndindex(*[2] * ndim)]
    points = [[bit * (n - 1.0) for bit, n in zip(bits, size, strict=True)] for bits in indices] + [[1.25] * ndim]
    expected = [truth.TransformContinuousIndexToPhysicalPoint(point) for point in points]
    found = image.grid.index_to_physical(torch.tensor(points, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, atol=tolerance)
    np.testing.assert_allclose(image.grid.physical_to_index(found).numpy(), points, atol=tolerance)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a.mha", "a.nrrd", "a.mhd", "a.nhdr"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_volumes_lie_where_simpleitk_puts_them(name: str, direction: str, tmp_path: Path) -> None:
    truth = placed(blobs((5, 6, 7), (0, 0, 0)), DIRECTIONS[direction])
    (tmp_path / "a").mkdir()
    sitk.WriteImage(truth, str(tmp_path / "a" / name.lower()))
    path = (tmp_path / "a" / name.lower()).rename(tmp_path / "a" / name)
    image = read_image(path)
    assert (image.grid.unit, image.name, image.data.dtype) == ("mm", name, torch.float32)
    assert_same_space(image, truth)
    np.testing.assert_array_equal(image.numpy(), sitk.GetArrayFromImage(truth))


@pytest.mark.parametrize("direction", ["upright", "oblique"])
def test_dicom_series(direction: str, tmp_path: Path) -> None:
    truth = placed(np.round(blobs((8, 6, 7), (0, 0, 0))).astype(np.int16), DIRECTIONS[direction])
    image = read_image(dicom_series(tmp_path / "scan", truth))
    assert_same_space(image, truth, tolerance=1e-3)
    np.testing.assert_array_equal(image.numpy(), sitk.GetArrayFromImage(truth))
    assert image.name == "scan"


def test_dicom_slices_are_sorted_by_position_not_by_name(tmp_path: Path) -> None:
    truth = placed(np.round(blobs((6, 6, 7), (0, 0, 0))).astype(np.int16), OBLIQUE)
    folder = dicom_series(tmp_path / "scan", truth)
    for number in range(6):
        (folder / f"{number:03d}.dcm").rename(folder / f"slice{(5 * number + 2) % 6}.dcm")
    (folder / "README.txt").write_text("not a slice")
    np.testing.assert_array_equal(read_image(folder).numpy(), sitk.GetArrayFromImage(truth))


def test_a_series_without_one_slice_of_two_volumes(tmp_path: Path) -> None:
    one = dicom_series(tmp_path / "one", volume(np.ones((1, 6, 7), np.int16)))
    with pytest.raises(InputError, match="one voxel thin"):
        read_image(one)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_stored_types(kind: type, tmp_path: Path) -> None:
    array = np.round(blobs((4, 5, 6), (0, 0, 0))).astype(kind)
    for name in ("a.nii.gz", "a.mha", "a.nrrd"):
        sitk.WriteImage(volume(array), str(tmp_path / name))
        np.testing.assert_array_equal(read_image(tmp_path / name).numpy(), array)


def test_slope_and_intercept_of_the_header_count(tmp_path: Path) -> None:
    header = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    header.header.set_slope_inter(0.5, -3.0)
    nibabel.save(header, tmp_path / "scaled.nii")
    array = np.asarray(nibabel.load(tmp_path / "scaled.nii").dataobj)
    np.testing.assert_allclose(read_image(tmp_path / "scaled.nii").numpy(), array.transpose(2, 1, 0))


def test_nifti_written_by_nibabel(tmp_path: Path) -> None:
    array = blobs((3, 4, 5), (0, 0, 0))
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    for order in "<>":
        nibabel.save(nibabel.Nifti1Image(array.astype(order + "f4"), affine), tmp_path / "one.nii.gz")
        image = read_image(tmp_path / "one.nii.gz")
        np.testing.assert_array_equal(image.numpy(), array.transpose(2, 1, 0))
        assert image.grid.spacing == (2.0, 3.0, 4.0)
        assert image.grid.direction == ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))  # RAS file, LPS world
    nibabel.save(nibabel.Nifti2Image(array, affine), tmp_path / "two.nii")
    with pytest.raises(InputError, match="NIfTI-2"):
        read_image(tmp_path / "two.nii")


def test_further_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    solid = volume(blobs((4, 5, 6), (0, 0, 0)))
    sitk.WriteImage(sitk.JoinSeries([solid]), str(tmp_path / "four.nii.gz"))
    assert read_image(tmp_path / "four.nii.gz").grid.size == (6, 5, 4)


def test_flat_nifti_is_in_mm(tmp_path: Path) -> None:
    sitk.WriteImage(volume(blobs((5, 6), (0, 0))), str(tmp_path / "flat.nii.gz"))
    grid = read_image(tmp_path / "flat.nii.gz").grid
    assert (grid.size, grid.unit) == ((6, 5), "mm")
    assert grid.spacing == pytest.approx((1.0, 1.2))


# --- pictures -----------------------------------------------------------------------------------------------------------

GREY = np.round(blobs((20, 30), (0, 0))).astype(np.uint8)
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)
ALPHA = np.full((20, 30, 1), 77, np.uint8)
LUMINANCE = COLOUR.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
PICTURES: dict[str, tuple[str, npt.NDArray[np.generic], npt.NDArray[np.generic]]] = {
    "grey": ("a.png", GREY, GREY),
    "capitals": ("A.PNG", GREY, GREY),
    "16 bit": ("a.png", GREY.astype(np.uint16) * 257, GREY.astype(np.float32) * 257),
    "colour": ("a.png", COLOUR, LUMINANCE),
    "colour with alpha": ("a.png", np.concatenate([COLOUR, ALPHA], axis=-1), LUMINANCE),
    "grey with alpha": ("a.png", np.concatenate([GREY[..., None], ALPHA], axis=-1), GREY),
    "16 bit colour": ("a.png", COLOUR.astype(np.uint16) * 257, LUMINANCE * 257),
    "16 bit colour TIFF": ("a.tif", COLOUR.astype(np.uint16) * 257, LUMINANCE * 257),
    "colour TIFF with alpha": ("a.tif", np.concatenate([COLOUR, ALPHA], axis=-1), LUMINANCE),
    "grey TIFF": ("a.tif", GREY, GREY),
    "16 bit TIFF": ("a.tiff", GREY.astype(np.uint16) * 257, GREY.astype(np.float32) * 257),
    "float TIFF": ("a.tif", GREY.astype(np.float32) / 7, GREY.astype(np.float32) / 7),
    "colour TIFF": ("a.tif", COLOUR, LUMINANCE),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_become_grey_and_lie_in_pixels(kind: str, tmp_path: Path) -> None:
    name, array, expected = PICTURES[kind]
    if array.ndim == 3 and array.dtype == np.uint16:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / name))
    else:
        PIL.Image.fromarray(array).save(tmp_path / name, dpi=(300, 300))
    image = read_image(tmp_path / name)
    np.testing.assert_allclose(image.numpy(), expected, rtol=1e-6, atol=1e-2)
    assert (image.grid.unit, image.grid.spacing, image.grid.origin) == ("px", (1.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg"])
def test_jpeg(name: str, tmp_path: Path) -> None:
    PIL.Image.fromarray(GREY).save(tmp_path / name, quality=98)
    np.testing.assert_allclose(read_image(tmp_path / name).numpy(), GREY, atol=4)
    PIL.Image.fromarray(COLOUR).save(tmp_path / name, quality=98, subsampling=0, progressive=True)
    np.testing.assert_allclose(read_image(tmp_path / name).numpy(), LUMINANCE, atol=6)


def test_palette_picture(tmp_path: Path) -> None:
    PIL.Image.fromarray(GREY).convert("P").save(tmp_path / "p.png")
    np.testing.assert_allclose(read_image(tmp_path / "p.png").numpy(), GREY, atol=1e-3)


def test_damaged_grey_with_alpha(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.concatenate([GREY[..., None], ALPHA], axis=-1)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content, said in (
        (whole[: len(whole) // 2], "truncated"),
        (whole[:24] + b"\x10" + whole[25:], "without alpha"),
    ):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize("big", [False, True])
def test_tiffs_that_itk_reads_wrongly_are_refused(big: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    PIL.Image.fromarray(np.concatenate([GREY[..., None], ALPHA], axis=-1)).save(path, big_tiff=big)
    with pytest.raises(InputError, match="2 values per pixel"):
        read_image(path)
    PIL.Image.fromarray(GREY).save(path, big_tiff=big, tiffinfo={262: 0})
    with pytest.raises(InputError, match="negative"):
        read_image(path)
    PIL.Image.fromarray(GREY).save(path, big_tiff=big)
    np.testing.assert_array_equal(read_image(path).numpy(), GREY)


def test_a_tiff_of_many_pages_is_a_stack(tmp_path: Path) -> None:
    pages = [PIL.Image.fromarray(GREY // (number + 1)) for number in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    image = read_image(tmp_path / "stack.tif")
    np.testing.assert_array_equal(image.numpy(), np.stack([GREY, GREY // 2, GREY // 3]))
    assert image.grid.unit == "px"


def test_spacing_of_pictures_in_mm(tmp_path: Path) -> None:
    PIL.Image.fromarray(GREY).save(tmp_path / "a.png")
    for option in ("picture_spacing", "spacing"):
        grid = read_image(tmp_path / "a.png", **{option: 0.25}).grid
        assert (grid.unit, grid.spacing) == ("mm", (0.25, 0.25))
    sitk.WriteImage(volume(blobs((5, 6), (0, 0))), str(tmp_path / "flat.mha"))
    assert read_image(tmp_path / "flat.mha", picture_spacing=9.0).grid.spacing == (1.0, 1.2)


# --- writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_written_volumes_come_back(name: str, direction: str, tmp_path: Path) -> None:
    truth = placed(blobs((5, 6, 7), (0, 0, 0)), DIRECTIONS[direction])
    image = Image(torch.from_numpy(sitk.GetArrayFromImage(truth))[None], Grid.of_sitk(truth))
    write_image(image, tmp_path / name)
    back = read_image(tmp_path / name)
    assert back.grid.same_as(image.grid)
    assert torch.equal(back.data, image.data)
    assert_same_space(back, sitk.ReadImage(str(tmp_path / name)))


PIXELS: dict[str, tuple[str, npt.NDArray[np.generic], npt.NDArray[np.generic]]] = {
    "8 bit": ("a.png", GREY + 0.4, GREY),
    "0 and 1": ("a.png", (GREY > 9) * 1.0, (GREY > 9) * 1.0),
    "16 bit": ("a.png", GREY * 200.0, GREY * 200.0),
    "fractions": ("a.png", GREY / 255.0, np.round(GREY / GREY.max() * 255.0)),
    "fractions as TIFF": ("a.tif", GREY / 255.0, GREY / 255.0),
    "negative as TIFF": ("a.tif", GREY - 90.5, GREY - 90.5),
    "16 bit as TIFF": ("a.tif", GREY * 200.0, GREY * 200.0),
}


@pytest.mark.parametrize("kind", PIXELS)
def test_written_pictures_come_back(kind: str, tmp_path: Path) -> None:
    name, array, expected = PIXELS[kind]
    write_image(Image.of_array(array), tmp_path / name)
    np.testing.assert_allclose(read_image(tmp_path / name).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["l.nii.gz", "l.mha", "l.nrrd"])
@pytest.mark.parametrize("largest", [2**24 + 1, 2**31 - 1, 2**40 + 1])
def test_labels_are_kept_exactly(name: str, largest: int, tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 2**24 + 1, largest]).repeat(2, 3, 1)
    write_image(Image(labels[None], Grid.of((2, 3, 4))), tmp_path / name)
    back = read_image(tmp_path / name, labels=True)
    assert back.data.dtype == torch.int64
    assert torch.equal(back.data[0], labels)


def test_labels_in_pictures(tmp_path: Path) -> None:
    labels = torch.tensor([[0, 1, 255], [300, 65535, 2]])[None]
    write_image(Image(labels, Grid.of((2, 3), unit="px")), tmp_path / "l.png")
    assert torch.equal(read_image(tmp_path / "l.png", labels=True).data, labels)
    for name, top in (("l.png", 65536), ("l.jpg", 3), ("l.tif", -1)):
        with pytest.raises(InputError, match="do not fit"):
            write_image(Image(torch.tensor([[[0, top], [1, 1]]]), Grid.of((2, 2), unit="px")), tmp_path / name)
    PIL.Image.fromarray(COLOUR).save(tmp_path / "c.png")
    with pytest.raises(InputError, match="in colour"):
        read_image(tmp_path / "c.png", labels=True)


# --- masks and NaN ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nan_outside_a_mask_is_accepted_and_inside_refused(name: str, kind: type, tmp_path: Path) -> None:
    array = blobs((4, 5, 6), (0, 0, 0)).astype(kind) + 1
    array[0], array[1, 2, 3] = np.nan, np.inf
    sitk.WriteImage(volume(array), str(tmp_path / name))
    mask = np.ones((4, 5, 6), np.uint8)
    mask[0], mask[1, 2, 3] = 0, 0
    sitk.WriteImage(volume(mask), str(tmp_path / "mask.mha"))
    image = read_image(tmp_path / name, mask=tmp_path / "mask.mha")
    np.testing.assert_array_equal(image.numpy(), np.where(mask > 0, array, 0).astype(np.float32))
    mask[1, 2, 3] = 1
    sitk.WriteImage(volume(mask), str(tmp_path / "mask.mha"))
    with pytest.raises(InputError, match="1 of 120 voxels are NaN or infinite inside its mask"):
        read_image(tmp_path / name, mask=tmp_path / "mask.mha")
    with pytest.raises(InputError, match="31 of 120 voxels"):
        read_image(tmp_path / name)


def test_values_beyond_float32_are_infinite_not_wrong(tmp_path: Path) -> None:
    array = blobs((4, 5, 6), (0, 0, 0)).astype(np.float64)
    array[1, 1, 1] = 1e300
    sitk.WriteImage(volume(array), str(tmp_path / "large.mha"))
    with pytest.raises(InputError, match="1 of 120 voxels"):
        read_image(tmp_path / "large.mha")


def test_masks(tmp_path: Path) -> None:
    truth = volume(np.round(blobs((6, 6, 7), (0, 0, 0))).astype(np.int16))
    image = read_image(dicom_series(tmp_path / "scan", truth))
    whole = sitk.GetArrayFromImage(truth)
    mask = read_mask(dicom_series(tmp_path / "mask", sitk.Cast(truth > 50, sitk.sitkInt16)), image)
    np.testing.assert_array_equal(mask[0].numpy(), (whole > 50).astype(np.float32))
    assert mask.dtype == torch.float32


@pytest.mark.parametrize("spacing", [None, 0.5])
def test_a_picture_is_a_mask_of_a_picture(spacing: float | None, tmp_path: Path) -> None:
    PIL.Image.fromarray(GREY).save(tmp_path / "a.png")
    PIL.Image.fromarray(((GREY > 9) * 255).astype(np.uint8)).save(tmp_path / "m.png")
    image = read_image(tmp_path / "a.png", mask=tmp_path / "m.png", picture_spacing=spacing)
    assert image.mask is not None
    np.testing.assert_array_equal(image.mask[0].numpy(), GREY > 9)
    PIL.Image.fromarray(GREY[:10]).save(tmp_path / "m.png")
    with pytest.raises(GridError, match="another grid"):
        read_image(tmp_path / "a.png", mask=tmp_path / "m.png", picture_spacing=spacing)


# --- landmarks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_landmarks_come_back(ndim: int, tmp_path: Path) -> None:
    points = torch.randn((5, ndim), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    write_landmarks(points, tmp_path / "points.csv")
    assert torch.equal(read_landmarks(tmp_path / "points.csv"), points)


def test_landmarks_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("﻿name, X ,y,Z\nnasion,1,2.5,-3e1\n\ninion,4,5,6\n", encoding="utf-8")
    assert read_landmarks(tmp_path / "p.csv").tolist() == [[1, 2.5, -30], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "columns x, y"),
        (b"x,y,z\n", "at least one row"),
        (b"a,b\n1,2\n", "columns x, y"),
        (b"x,y\n1,two\n", "not a number"),
        (b"x,y,z\n1,2\n", "not a number"),
        (b"x,y\n1,nan\n", "NaN or infinite"),
        (b"x,y\n\xff\xfe,2\n", "not a CSV"),
    ],
)
def test_bad_landmarks(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_landmarks(tmp_path / "p.csv")
    with pytest.raises(InputError, match="no such file"):
        read_landmarks(tmp_path / "none.csv")


# --- in one piece -------------------------------------------------------------------------------------------------------


def interrupted(writing: AbstractContextManager[Path], name: Path) -> None:
    with writing as part:
        (part / name).write_text("half")
        raise RuntimeError("midway")


def test_atomic_path_writes_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.nii.gz"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="midway"):
        interrupted(atomic_path(target), Path())
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
    assert target.read_text() == "old"
    with atomic_path(target) as part:
        assert part.parent == tmp_path
        assert part.name.startswith(".part-")
        assert part.name.endswith("a.nii.gz")
        part.write_text("new")
        assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
    assert target.read_text() == "new"


def test_atomic_path_keeps_to_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a") as part:
            part.write_text("a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_atomic_path_says_why_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {tmp_path / "no" / "a": "no folder", tmp_path: "a folder stands", tmp_path / ("a" * 300): "too long"}
    for path, said in places.items():
        with pytest.raises(InputError, match=said), atomic_path(path):
            pass
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission"), atomic_path(tmp_path / "a"):
        pass
    with pytest.raises(InputError, match="no permission"):
        check_folder(tmp_path / "deep" / "er")
    assert list(tmp_path.iterdir()) == []


def test_staged_files_appear_together_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")
    with pytest.raises(RuntimeError, match="midway"):
        interrupted(staged(tmp_path), Path("b"))
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "old"
    with staged(tmp_path / "new", last=("b", "a")) as part:
        for name in "abc":
            (part / name).write_text(name)
        assert (tmp_path / "new").is_dir()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a", "b", "c"]


def test_what_a_killed_run_left_is_cleared_when_it_is_old(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".part-old", tmp_path / ".part-fresh"
    old.mkdir()
    (old / "a").write_text("half")
    fresh.write_text("someone else is at work")
    os.utime(old, (0, 0))
    make_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [fresh]


def test_quiet_silences_and_gives_back(capfd: pytest.CaptureFixture[str]) -> None:
    def noisy() -> None:
        for _ in range(50):
            with quiet():
                os.write(2, b"noise")

    threads = [threading.Thread(target=noisy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(KeyError), quiet():
        raise KeyError
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


# --- settings and results -----------------------------------------------------------------------------------------------


STAGE = "[[stages]]\ntransform = 'rigid'\nmetric = 'mse'\nlevels = [{spacing = 2, steps = 3, step = 1}]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages = [", "not TOML"),
        ("stagse = []", "unknown setting 'stagse'; did you mean 'stages'?"),
        ("start = 'auto'", "setting 'stages': is missing"),
        ("stages = []", "setting 'stages': expected at least one entry, got none"),
        (f"start = 'middle'\n{STAGE}", "unknown start 'middle'. Known: auto, identity"),
        (f"smoothing = 'much'\n{STAGE}", "setting 'smoothing': expected a valid number, got 'much'"),
        (f"smoothing = nan\n{STAGE}", "expected a finite number, got nan"),
    ],
)
def test_settings_files(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        Schedule.of_toml(tmp_path / "plan.toml")
    assert said in str(caught.value)
    with pytest.raises(SettingsError, match="no such file"):
        Schedule.of_toml(tmp_path / "none.toml")


def test_settings_come_back(tmp_path: Path) -> None:
    text = "smoothing = 0.25\n[[stages]]\ntransform = 'rigid'\nmetric = 'mse'\nlevels = [{spacing = 2, steps = 3, step = 1}]\n"
    (tmp_path / "plan.toml").write_text(text)
    plan = Schedule.of_toml(tmp_path / "plan.toml")
    assert Schedule.model_validate_json(plan.to_json()) == plan
    assert plan.stages[0].levels[0].steps == tomllib.loads(text)["stages"][0]["levels"][0]["steps"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_null_in_json(value: float) -> None:
    row = MetricRow(metric="mse", value=value, higher_is_better=False, unit="", seconds=0.5)
    assert '"value":null' in row.model_dump_json()
    assert np.isnan(MetricRow.model_validate_json(row.model_dump_json()).value)
