"""Bad input: one clear line, exit code 2, no traceback, nothing written and nothing lost. One row of a table per mistake."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from .conftest import Command, Outcome, Samples, blobs, dicom_series, volume

SHAPE = (20, 22, 24)
Maker = Callable[[Path, Samples], Path]


# --- files that cannot be used ------------------------------------------------------------------------------------------


def stored(name: str, image: sitk.Image, compress: bool = False) -> Maker:
    def make(folder: Path, samples: Samples) -> Path:
        sitk.WriteImage(image, str(folder / name), useCompression=compress)
        return folder / name

    return make


def cut(name: str, image: sitk.Image, share: float = 0.5, compress: bool = False) -> Maker:
    def make(folder: Path, samples: Samples) -> Path:
        path = stored(name, image, compress)(folder, samples)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        return path

    return make


def holding(name: str, content: bytes) -> Maker:
    def make(folder: Path, samples: Samples) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def renamed(name: str, source: str) -> Maker:
    def make(folder: Path, samples: Samples) -> Path:
        shutil.copy(samples.folder / source, folder / name)
        return folder / name

    return make


def nifti(place: int, form: str, *values: float) -> Maker:
    """A good NIfTI file, its geometry in the sform alone, with a few bytes of its header replaced."""

    def make(folder: Path, samples: Samples) -> Path:
        header = bytearray(gzip.decompress(samples.fixed.read_bytes()))
        struct.pack_into("<hh", header, 252, 0, 1)
        struct.pack_into("<" + form, header, place, *values)
        (folder / "header.nii").write_bytes(bytes(header))
        return folder / "header.nii"

    return make


def edited(name: str, before: bytes, after: bytes) -> Maker:
    def make(folder: Path, samples: Samples) -> Path:
        path = stored(name, volume(blobs(SHAPE, (0, 0, 0)), (1.0, 1.0, 1.0)))(folder, samples)
        content = path.read_bytes()
        assert before in content
        path.write_bytes(content.replace(before, after))
        return path

    return make


def with_value(name: str, value: float, everywhere: bool = False) -> Maker:
    array = blobs(SHAPE, (0, 0, 0))
    array[... if everywhere else (3, 4, slice(5, 7))] = value
    return stored(name, volume(array))


def missing(folder: Path, samples: Samples) -> Path:
    return folder / "missing.nii.gz"


def zipped_short(folder: Path, samples: Samples) -> Path:
    (folder / "short.nii.gz").write_bytes(gzip.compress(gzip.decompress(samples.fixed.read_bytes())[:9000]))
    return folder / "short.nii.gz"


def series_image() -> sitk.Image:
    return volume(np.round(blobs((8, 16, 18), (0, 0, 0))).astype(np.int16))


def no_series(folder: Path, samples: Samples) -> Path:
    (folder / "scan").mkdir()
    (folder / "scan" / "notes.txt").write_text("nothing here")
    return folder / "scan"


def two_series(folder: Path, samples: Samples) -> Path:
    dicom_series(folder / "scan", series_image())
    return dicom_series(folder / "scan", series_image(), series="1.2.4", first=100)


def gap_in_series(folder: Path, samples: Samples) -> Path:
    return dicom_series(folder / "scan", series_image(), skip=(3,))


def doubled_series(folder: Path, samples: Samples) -> Path:
    dicom_series(folder / "scan", series_image())
    return dicom_series(folder / "scan", series_image(), first=100)


def tilted_series(folder: Path, samples: Samples) -> Path:
    """Each slice lies 0.4 mm beside the one below, as under a tilted gantry."""
    image = series_image()
    for number in range(image.GetSize()[2]):
        image.SetOrigin((0.4 * number, 0.0, 0.0))
        others = tuple(other for other in range(image.GetSize()[2]) if other != number)
        dicom_series(folder / "scan", image, skip=others)
    return folder / "scan"


def damaged_slice(folder: Path, samples: Samples) -> Path:
    last = max(dicom_series(folder / "scan", series_image()).iterdir())
    last.write_bytes(last.read_bytes()[:-200])
    return folder / "scan"


def damaged_series(folder: Path, samples: Samples) -> Path:
    for path in dicom_series(folder / "scan", series_image()).iterdir():
        path.write_bytes(path.read_bytes()[:-200])
    return folder / "scan"


SOLID = volume(blobs(SHAPE, (0, 0, 0)))
FLAT = sitk.GetImageFromArray(np.round(blobs((48, 56), (0, 0))).astype(np.uint8))
FOUR = sitk.JoinSeries([SOLID, SOLID])
VECTORS = sitk.GetImageFromArray(np.stack([blobs(SHAPE, (0, 0, 0))] * 3, axis=-1), isVector=True)
COMPLEX = sitk.RealAndImaginaryToComplex(SOLID, SOLID)
TEXT = b"these are notes, not an image\n" * 30
NO_NUMBER = float("nan")

VOLUMES: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "missing": (missing, ("missing.nii.gz", "does not exist")),
    "truncated .nii.gz": (cut("cut.nii.gz", SOLID), ("truncated", "copy it again")),
    "truncated before zipping": (zipped_short, ("truncated", "9000 bytes", "announces")),
    "truncated .nii": (cut("cut.nii", SOLID, 0.99), ("truncated", "announces")),
    "truncated .nii header": (cut("cut.nii", SOLID, 0.005), ("not a NIfTI",)),
    "truncated .mha": (cut("cut.mha", SOLID, 0.99), ("cut.mha", "truncated")),
    "truncated zipped .mha": (cut("cut.mha", SOLID, 0.9, compress=True), ("cut.mha", "truncated")),
    "truncated .nrrd": (cut("cut.nrrd", SOLID, 0.99), ("cut.nrrd", "truncated")),
    "truncated zipped .nrrd": (cut("cut.nrrd", SOLID, 0.9, compress=True), ("cut.nrrd", "truncated")),
    "empty .nii": (holding("empty.nii", b""), ("empty", "0 bytes")),
    "empty .nii.gz": (holding("empty.nii.gz", b""), ("empty", "0 bytes")),
    "empty .mha": (holding("empty.mha", b""), ("empty", "0 bytes")),
    "empty .nrrd": (holding("empty.nrrd", b""), ("empty", "0 bytes")),
    "NaN everywhere .nii.gz": (with_value("nan.nii.gz", NO_NUMBER, everywhere=True), ("NaN", "10560 of 10560")),
    "NaN everywhere .mha": (with_value("nan.mha", NO_NUMBER, everywhere=True), ("NaN", "10560 of 10560")),
    "some NaN .nii": (with_value("nan.nii", NO_NUMBER), ("2 of 10560 voxels", "mask them")),
    "infinite .nrrd": (with_value("inf.nrrd", np.inf), ("2 of 10560 voxels", "infinite")),
    "single slice": (stored("thin.nii.gz", volume(blobs((1, 22, 24), (0, 0, 0)))), ("one voxel thin", "24 x 22 x 1")),
    "4-D": (stored("four.nii.gz", FOUR), ("4 axes", "24 x 22 x 20 x 2", "one 3-D volume")),
    "text as .nii": (holding("text.nii", TEXT), ("not a NIfTI",)),
    "text as .nii.gz": (holding("text.nii.gz", TEXT), ("not gzip", "rename")),
    "gzip as .nii": (renamed("zipped.nii", "fixed.nii.gz"), ("is gzip", "rename")),
    "gzip of text": (holding("text.nii.gz", gzip.compress(TEXT)), ("not a NIfTI",)),
    "text as .mha": (holding("text.mha", TEXT), ("text.mha", "another kind")),
    "picture as .nrrd": (renamed("picture.nrrd", "fixed.png"), ("picture.nrrd", "another kind")),
    "unknown ending": (holding("image.xyz", TEXT), (".xyz", "expected .nii")),
    "no ending": (holding("image", TEXT), ("no ending", "expected .nii")),
    "singular sform": (nifti(280, "12f", 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0), ("not invertible", "repair")),
    "sform of zeros": (nifti(280, "12f", *[0.0] * 12), ("not invertible", "repair")),
    "sform of NaN": (nifti(280, "12f", *[NO_NUMBER] * 12), ("not invertible", "repair")),
    "sheared sform": (nifti(280, "12f", 1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), ("orthonormal", "repair")),
    "voxel size 0": (nifti(80, "f", 0.0), ("0 x 1.2 x 1.5 mm", "repair")),
    "voxel size NaN": (nifti(80, "f", NO_NUMBER), ("nan x 1.2 x 1.5 mm", "repair")),
    "unknown data type": (nifti(70, "h", 1), ("data type 1",)),
    "absurd size": (nifti(40, "4h", 3, 30000, 30000, 30000), ("truncated", "announces")),
    "singular MetaImage": (edited("m.mha", b"= 1 0 0 0 1 0 0 0 1", b"= 1 0 0 1 0 0 0 0 1"), ("not invertible",)),
    "spacing 0 in MetaImage": (edited("m.mha", b"Spacing = 1 1 1", b"Spacing = 0 1 1"), ("not invertible", "repair")),
    "singular NRRD": (edited("n.nrrd", b"(1,0,0)", b"(0,1,0)"), ("not invertible",)),
    "complex": (stored("complex.nii", COMPLEX), ("complex", "magnitude")),
    "vectors": (stored("field.nii.gz", VECTORS), ("3 values per voxel", "one grey value")),
    "folder without a series": (no_series, ("no DICOM series",)),
    "folder with two series": (two_series, ("2 DICOM series", "own folder")),
    "series with a gap": (gap_in_series, ("1.5 to 3 mm apart", "missing")),
    "series twice": (doubled_series, ("several at one position",)),
    "tilted series": (tilted_series, ("tilted gantry", "resample")),
    "series with a damaged last slice": (damaged_slice, ("007.dcm", "damaged", "copy it again")),
    "damaged series": (damaged_series, ("000.dcm", "damaged", "copy it again")),
}
PICTURES: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "truncated .png": (cut("cut.png", FLAT), ("cut.png", "truncated")),
    "truncated .jpg": (cut("cut.jpg", FLAT, 0.9), ("cut.jpg", "truncated", "copy it again")),
    "truncated .tif": (cut("cut.tif", FLAT), ("cut.tif", "truncated")),
    "empty .png": (holding("empty.png", b""), ("empty", "0 bytes")),
    "text as .png": (holding("text.png", TEXT), ("text.png", "another kind")),
    "NIfTI as .png": (renamed("volume.png", "fixed.nii.gz"), ("volume.png", "another kind")),
    "one pixel thin": (stored("thin.png", FLAT[:, :1]), ("one voxel thin", "56 x 1")),
}
ALL = {**VOLUMES, **PICTURES}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def commands(bad: Path, samples: Samples, out: Path, flat: bool) -> dict[str, list[object]]:
    """Every command that reads images, with the bad one in every place."""
    good, shift = (samples.picture, samples.picture_transform) if flat else (samples.fixed, samples.transform)
    carried = out / ("carried.png" if flat else "carried.nii.gz")
    return {
        "score, fixed": ["score", bad, good, "--json", out / "scores.json"],
        "score, moving": ["score", good, bad, "--json", out / "scores.json"],
        "register, fixed": ["register", bad, good, "-o", out / "run"],
        "register, moving": ["register", good, bad, "-o", out / "run"],
        "warp, moving": ["warp", bad, shift, "--like", good, "-o", carried],
        "warp, like": ["warp", good, shift, "--like", bad, "-o", carried],
    }


@pytest.mark.parametrize("mistake", ALL)
def test_a_bad_image_is_one_line_whatever_the_command(
    mistake: str, samples: Samples, command: Command, tmp_path: Path, empty: Path
) -> None:
    make, words = ALL[mistake]
    bad = make(tmp_path, samples)
    for place, arguments in commands(bad, samples, empty, mistake in PICTURES).items():
        outcome = command(*arguments)
        print(place, outcome.err)
        outcome.refused(*words)
        assert list(empty.iterdir()) == [], place


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_a_constant_image_is_refused_where_it_is_compared(
    value: float, samples: Samples, command: Command, tmp_path: Path, empty: Path
) -> None:
    bad = stored("constant.nii.gz", volume(np.full(SHAPE, value, np.float32)))(tmp_path, samples)
    places = commands(bad, samples, empty, flat=False)
    for place in ("score, fixed", "score, moving", "register, fixed", "register, moving"):
        command(*places[place]).refused("constant.nii.gz", "constant", f"{value:g} everywhere")
    assert list(empty.iterdir()) == []
    command(*places["warp, moving"]).succeeded()  # carrying a flat image is no mistake


@pytest.mark.parametrize("name", ["nan.nii.gz", "nan.mha", "half.nii.gz"])
def test_labels_must_be_whole_numbers(
    name: str, samples: Samples, command: Command, tmp_path: Path, empty: Path
) -> None:
    bad = with_value(name, 0.5 if "half" in name else NO_NUMBER)(tmp_path, samples)
    outcome = command("warp", bad, samples.transform, "--like", samples.fixed, "-o", empty / "l.nii.gz", "--labels")
    outcome.refused(name, "whole numbers")
    assert list(empty.iterdir()) == []


# --- things that do not belong together ---------------------------------------------------------------------------------


def far_away(folder: Path, samples: Samples) -> Path:
    image = volume(blobs(SHAPE, (0, 0, 0)))
    image.SetOrigin((900.0, 0.0, 0.0))
    sitk.WriteImage(image, str(folder / "far.nii.gz"))
    return folder / "far.nii.gz"


def small_mask(folder: Path, samples: Samples) -> Path:
    return stored("small.nii.gz", volume(np.ones((10, 22, 24), np.uint8)))(folder, samples)


def shifted_mask(folder: Path, samples: Samples) -> Path:
    image = volume(np.ones(SHAPE, np.uint8))
    image.SetOrigin((0.5, 0, 0))
    return stored("shifted.nii.gz", image)(folder, samples)


def empty_mask(folder: Path, samples: Samples) -> Path:
    return stored("none.nii.gz", volume(np.zeros(SHAPE, np.uint8)))(folder, samples)


def flat_mm(folder: Path, samples: Samples) -> Path:
    return stored("flat.nii.gz", volume(blobs((48, 56), (0, 0))))(folder, samples)


def flat_mask(folder: Path, samples: Samples) -> Path:
    return stored("flatmask.nii.gz", volume(np.ones((22, 24), np.uint8)))(folder, samples)


PAIRS: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "2-D against 3-D": (flat_mm, ("fixed.nii.gz' is 3-D", "flat.nii.gz' is 2-D")),
    "picture against volume": (renamed("picture.png", "fixed.png"), ("3-D", "2-D")),
}
MASKS: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "mask of another size": (small_mask, ("small.nii.gz", "another grid", "24 x 22 x 10", "resample it")),
    "mask elsewhere": (shifted_mask, ("shifted.nii.gz", "another grid", "resample it")),
    "empty mask": (empty_mask, ("none.nii.gz", "empty", "above 0")),
    "mask of another dimension": (flat_mask, ("flatmask.nii.gz", "2-D", "3-D")),
    "mask truncated": (cut("cut.nii.gz", SOLID), ("cut.nii.gz", "truncated")),
    "mask missing": (missing, ("missing.nii.gz", "does not exist")),
}


@pytest.mark.parametrize("mistake", PAIRS)
def test_two_images_that_do_not_belong_together(
    mistake: str, samples: Samples, command: Command, tmp_path: Path, empty: Path
) -> None:
    make, words = PAIRS[mistake]
    other = make(tmp_path, samples)
    command("score", samples.fixed, other).refused(*words)
    command("register", samples.fixed, other, "-o", empty / "run").refused(*words)
    command("warp", other, samples.transform, "--like", samples.fixed, "-o", empty / "w.nii.gz").refused(*words)
    assert list(empty.iterdir()) == []


def test_pixels_against_millimetres(samples: Samples, command: Command, tmp_path: Path, empty: Path) -> None:
    flat = flat_mm(tmp_path, samples)
    words = ("is in mm", "in px", "--spacing")
    command("score", flat, samples.picture).refused(*words)
    command("register", flat, samples.picture, "-o", empty / "run").refused(*words)
    command("warp", samples.picture, samples.picture_transform, "--like", flat, "-o", empty / "w.png").refused(*words)
    assert list(empty.iterdir()) == []
    command("score", flat, samples.picture, "--spacing", 1.0, "-m", "mse").succeeded()


def test_no_overlap(samples: Samples, command: Command, tmp_path: Path, empty: Path) -> None:
    far = far_away(tmp_path, samples)
    command("score", samples.fixed, far).refused("no overlap", "fixed.nii.gz", "far.nii.gz", "register them first")
    command("register", samples.fixed, far, "-o", empty / "run", "--start", "identity").refused("no overlap", "start")
    arguments = ["warp", far, samples.transform, "--like", samples.fixed, "-o", empty / "w.nii.gz"]
    command(*arguments).refused("no overlap", "far.nii.gz", "--inverse")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("mistake", MASKS)
def test_masks_that_cannot_be_used(
    mistake: str, samples: Samples, command: Command, tmp_path: Path, empty: Path
) -> None:
    make, words = MASKS[mistake]
    mask = make(tmp_path, samples)
    for side in ("--fixed-mask", "--moving-mask"):
        command("score", samples.fixed, samples.moving, side, mask).refused(*words)
        command("register", samples.fixed, samples.moving, "-o", empty / "run", side, mask).refused(*words)
    assert list(empty.iterdir()) == []


# --- transforms ---------------------------------------------------------------------------------------------------------

LINEAR = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
CENTRE = "\nFixedParameters: 0 0 0\n"


def affine(name: str, parameters: str) -> Maker:
    return holding(name, f"{LINEAR}Parameters: {parameters}{CENTRE}".encode())


def damaged_h5(folder: Path, samples: Samples) -> Path:
    sitk.WriteTransform(sitk.AffineTransform(3), str(folder / "cut.h5"))
    (folder / "cut.h5").write_bytes((folder / "cut.h5").read_bytes()[:3000])
    return folder / "cut.h5"


def field(name: str, spoil: bool = False) -> Maker:
    array = np.zeros((*SHAPE, 3), np.float32)
    if spoil:
        array[3, 4, 5, 1] = np.nan
    image = sitk.GetImageFromArray(array, isVector=True)
    image.CopyInformation(SOLID)
    return stored(name, image)


TRANSFORMS: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "missing": (holding("else.tfm", b""), ("there is none.tfm", "does not exist")),
    "empty": (holding("empty.tfm", b""), ("empty.tfm", "damaged")),
    "text": (holding("text.tfm", TEXT), ("text.tfm", "damaged")),
    "truncated": (damaged_h5, ("cut.h5", "damaged")),
    "too few numbers": (affine("few.tfm", "1 0 0 0 1"), ("few.tfm", "damaged")),
    "singular": (affine("singular.tfm", "1 0 0 1 0 0 0 0 1 0 0 0"), ("singular.tfm", "not invertible")),
    "another dimension": (renamed("two.tfm", "shift2.tfm"), ("two.tfm", "2-D", "3-D")),
    "an image": (renamed("image.nii.gz", "fixed.nii.gz"), ("image.nii.gz", "not a displacement field")),
    "truncated field": (lambda f, s: cut_file(field("cut.nii")(f, s)), ("cut.nii", "truncated")),
    "truncated zipped field": (lambda f, s: cut_file(field("cut.nii.gz")(f, s)), ("cut.nii.gz", "truncated")),
    "field with NaN": (field("nan.nii.gz", spoil=True), ("nan.nii.gz", "NaN")),
}


def cut_file(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-50])
    return path


@pytest.mark.parametrize("mistake", TRANSFORMS)
def test_transforms_that_cannot_be_used(
    mistake: str, samples: Samples, command: Command, tmp_path: Path, empty: Path
) -> None:
    make, words = TRANSFORMS[mistake]
    bad = make(tmp_path, samples)
    bad = tmp_path / "there is none.tfm" if mistake == "missing" else bad
    command("score", samples.fixed, samples.moving, "--transform", bad).refused(*words)
    command("register", samples.fixed, samples.moving, "-o", empty / "run", "--initial", bad).refused(*words)
    command("warp", samples.moving, bad, "--like", samples.fixed, "-o", empty / "w.nii.gz").refused(*words)
    assert list(empty.iterdir()) == []


def test_a_folded_field_cannot_be_inverted(samples: Samples, command: Command, tmp_path: Path, empty: Path) -> None:
    array = np.random.default_rng(0).normal(size=(*SHAPE, 3), scale=20).astype(np.float32)
    image = sitk.GetImageFromArray(array, isVector=True)
    image.CopyInformation(SOLID)
    bad = stored("folded.nii.gz", image)(tmp_path, samples)
    arguments = ["warp", samples.moving, bad, "--like", samples.fixed, "-o", empty / "w.nii.gz", "--inverse"]
    command(*arguments).refused("cannot be inverted")
    assert list(empty.iterdir()) == []


# --- words and numbers --------------------------------------------------------------------------------------------------

SCORE, REGISTER = ["score", "FIXED", "MOVING"], ["register", "FIXED", "MOVING", "-o", "OUT/run"]
WARP = ["warp", "MOVING", "TRANSFORM", "--like", "FIXED", "-o", "OUT/w.nii.gz"]
WORDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "command": (["regster"], ("regster", "register")),
    "option": ([*SCORE, "--mtric", "mse"], ("--mtric", "--metric")),
    "argument missing": (["score", "FIXED"], ("Missing argument", "moving")),
    "output missing": (["register", "FIXED", "MOVING"], ("Missing option", "--output")),
    "metric": ([*SCORE, "-m", "mimd"], ("unknown metric 'mimd'; did you mean 'mind'? Known: ",)),
    "metric of register": ([*REGISTER, "-m", "mimd"], ("unknown metric 'mimd'",)),
    "linear metric": ([*REGISTER, "--linear-metric", "mimd"], ("unknown metric 'mimd'",)),
    "metric's setting": ([*SCORE, "-m", "mind:radios=2"], ("'radios'", "did you mean 'radius'?")),
    "setting's value": ([*SCORE, "-m", "mind:radius=big"], ("radius", "expects int", "'big'")),
    "setting's form": ([*SCORE, "-m", "mind:radius"], ("name:setting=value",)),
    "transform": (
        [*REGISTER, "--transform", "rigit"],
        (
            "unknown transform 'rigit'; did you mean 'rigid'? Known: rigid, similarity, affine, deformable, diffeomorphic",
        ),
    ),
    "start": ([*REGISTER, "--start", "center"], ("unknown start 'center'; did you mean 'centres'? Known: auto, ",)),
    "optimiser": (
        [*REGISTER, "--optimiser", "newton"],
        ("unknown optimiser 'newton'", "Known: gradient, adam, powell"),
    ),
    "powell deformable": (
        [*REGISTER, "--optimiser", "powell", "--transform", "deformable"],
        ("powell", "linear", "use gradient"),
    ),
    "symmetric rigid": ([*REGISTER, "--symmetric"], ("symmetric", "needs the transform 'diffeomorphic', not 'rigid'")),
    "flips without a search": ([*REGISTER, "--flips"], ("mirrored starts need the start 'search'",)),
    "nothing left": (
        [*REGISTER, "--fixed-exclude", "FIXED", "--fixed-mask", "FIXED"],
        ("leaves nothing of", "to compare"),
    ),
    "interpolation": ([*WARP, "--interpolation", "liner"], ("unknown interpolation 'liner'; did you mean 'linear'?",)),
    "interpolation of labels": ([*WARP, "--labels", "--interpolation", "cubic", "-l"], ("-l",)),
    "device": ([*SCORE, "--device", "tpu"], ("unknown device 'tpu'", "auto, cpu, cuda")),
    "threads": ([*SCORE, "--threads", "-1"], ("--threads", "greater than or equal to 0", "'-1'")),
    "threads as a word": ([*SCORE, "--threads", "two"], ("--threads", "expected a valid integer, got 'two'")),
    "seed": ([*REGISTER, "--seed", "9" * 30], ("--seed", "less than or equal to")),
    "spacing 0": ([*SCORE, "--spacing", "0"], ("--spacing", "greater than", "'0'")),
    "spacing infinite": ([*SCORE, "--spacing", "inf"], ("spacing", "expected a finite number, got inf")),
    "regularisation": ([*REGISTER, "--regularisation", "-2"], ("--regularisation", "greater than or equal to 0")),
    "regularisation NaN": ([*REGISTER, "--regularisation", "nan"], ("regularisation", "nan")),
    "finest": ([*REGISTER, "--finest", "-1"], ("--finest", "'-1'")),
    "finest infinite": ([*REGISTER, "--finest", "inf"], ("finest", "finite")),
    "fill": ([*WARP, "--fill", "nan"], ("fill", "expected a finite number, got nan")),
    "fill of labels": ([*WARP, "--labels", "--fill", "0.5"], ("fill", "whole number")),
    "model": (["models", "best"], ("unknown model 'best'",)),
    "results folder": (["report", "OUT/none"], ("OUT/none", "not a folder of results")),
    "folder without results": (["report", "OUT"], ("results.json", "no such file")),
}


def filled(arguments: list[str], samples: Samples, out: Path) -> list[str]:
    places = {"FIXED": str(samples.fixed), "MOVING": str(samples.moving), "TRANSFORM": str(samples.transform)}
    return [places.get(argument, argument.replace("OUT", str(out))) for argument in arguments]


@pytest.mark.parametrize("mistake", WORDS)
def test_words_and_numbers(mistake: str, samples: Samples, command: Command, empty: Path) -> None:
    arguments, words = WORDS[mistake]
    outcome = command(*filled(arguments, samples, empty))
    outcome.refused(*[word.replace("OUT", str(empty)) for word in words])
    assert "Input should" not in outcome.err
    assert list(empty.iterdir()) == []


def test_cuda_where_there_is_none(
    samples: Samples, command: Command, monkeypatch: pytest.MonkeyPatch, empty: Path
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command("score", samples.fixed, samples.moving, "--device", "cuda").refused("no GPU", "--device cpu")
    command("register", samples.fixed, samples.moving, "-o", empty / "run", "--device", "cuda").refused("no GPU")
    assert list(empty.iterdir()) == []


# --- where results go ---------------------------------------------------------------------------------------------------

OUTPUTS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "folder that is a file": (["register", "FIXED", "MOVING", "-o", "FILE"], ("FILE' is a file", "another -o")),
    "folder below a file": (["register", "FIXED", "MOVING", "-o", "FILE/run"], ("FILE' is a file", "another -o")),
    "demo into a file": (["demo", "-o", "FILE"], ("FILE' is a file",)),
    "ending": (["warp", "MOVING", "TRANSFORM", "--like", "FIXED", "-o", "OUT/w.xyz"], (".xyz", "expected .nii")),
    "two-file ending": (["warp", "MOVING", "TRANSFORM", "--like", "FIXED", "-o", "OUT/w.mhd"], (".mhd", ".mha")),
    "3-D picture": (["warp", "MOVING", "TRANSFORM", "--like", "FIXED", "-o", "OUT/w.png"], ("3-D", "use .nii.gz")),
    "no such folder": (
        ["warp", "MOVING", "TRANSFORM", "--like", "FIXED", "-o", "OUT/no/w.nii.gz"],
        ("no folder", "make it first"),
    ),
    "a folder's name": (
        ["warp", "MOVING", "TRANSFORM", "--like", "FIXED", "-o", "FOLDER.nii.gz"],
        ("a folder stands",),
    ),
    "map's ending": ([*SCORE, "--map", "mse=OUT/m.xyz"], (".xyz", "expected .nii")),
    "map as picture": ([*SCORE, "--map", "mse=OUT/m.png"], ("3-D", "use .nii.gz")),
    "map's folder": ([*SCORE, "--map", "mse=OUT/no/m.nii.gz"], ("no folder",)),
    "map's form": ([*SCORE, "--map", "OUT/m.nii.gz"], ("expected NAME=", "such as")),
    "map's metric": ([*SCORE, "--map", "msse=OUT/m.nii.gz"], ("unknown metric 'msse'",)),
    "no map": ([*SCORE, "--map", "nmi=OUT/m.nii.gz"], ("nmi", "no local map")),
    "second map": ([*SCORE, "--map", "mse=OUT/m.nii.gz", "--map", "mae=OUT/m.png"], ("3-D", "use .nii.gz")),
    "json's folder": ([*SCORE, "--json", "OUT/no/s.json"], ("no folder",)),
    "json is a folder": ([*REGISTER, "--json", "OUT"], ("a folder stands",)),
}


@pytest.mark.parametrize("mistake", OUTPUTS)
def test_outputs_that_cannot_be_written(
    mistake: str, samples: Samples, command: Command, empty: Path, tmp_path: Path
) -> None:
    arguments, words = OUTPUTS[mistake]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.nii.gz").mkdir()
    names = {"FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path / "folder")}
    for name, path in names.items():
        arguments = [argument.replace(name, path) for argument in arguments]
        words = tuple(word.replace(name, path) for word in words)
    command(*filled(arguments, samples, empty)).refused(*words)
    assert list(empty.iterdir()) == []
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(samples: Samples, command: Command, empty: Path) -> None:
    empty.chmod(0o500)
    command("register", samples.fixed, samples.moving, "-o", empty / "run").refused("permission")
    empty.chmod(0o700)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", ["reading", "options", "writing", "page"])
def test_a_failed_run_leaves_old_results_as_they_were(
    stage: str, samples: Samples, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    good = ["register", samples.picture, samples.moved_picture, "-o", run]
    command(*good).succeeded()
    old = contents(run)
    assert {"results.json", "transform.h5", "check/check.json"} <= set(old)
    if stage == "reading":
        command(*good[:2], PICTURES["truncated .png"][0](tmp_path, samples), *good[3:]).refused("truncated")
    elif stage == "options":
        command(*good, "--transform", "rigit").refused("rigid")
    else:
        broken = "write_image" if stage == "writing" else "write_registration_page"

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(f"regsim.applications.align.{broken}", full)
        command(*good, "--transform", "affine").refused("No space left", code=1)
    assert contents(run) == old


def test_as_a_program(samples: Samples, tmp_path: Path) -> None:
    """What the in-process tests cannot see: the real standard error of a real process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    cut_volume = cut("cut.mha", SOLID)(tmp_path, samples)
    line = [sys.executable, "-m", "regsim", "score", str(samples.fixed), str(cut_volume)]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", env=environment, check=False)
    Outcome(done.returncode, done.stdout, done.stderr).refused("cut.mha", "truncated")
