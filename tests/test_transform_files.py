"""Transform files: each kind comes back as what it is, and what is damaged or cannot be held is refused in one line."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regsim.cli.app import run
from regsim.errors import TransformError
from regsim.images import Image, write_image
from regsim.transforms import (
    Affine,
    Composite,
    ControlGrid,
    DisplacementField,
    Rigid,
    Similarity,
    Transform,
    read_transform,
    write_transform,
)
from regsim.transforms.files import ITK_ENDINGS, ONE_MATRIX
from regsim.transforms.learn2reg import of_learn2reg, read_learn2reg, write_learn2reg

POINT = (3.0, -2.0, 5.0)
IMAGE = Image.of_array(torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0)), (1.0, 1.5, 2.0))
COMPOSED = """#Insight Transform File V1.0
#Transform 0
Transform: ComposeScaleSkewVersor3DTransform_double_3_3
Parameters: 0 0 0.1 1 2 3 1.2 1.1 0.9 0 0 0
FixedParameters: 0 0 0
"""


def _named(name: str) -> sitk.Transform:
    """An ITK transform of this name, with a turn, a shift and (where it has any) scales."""
    made = getattr(sitk, name)()
    values = np.asarray(made.GetParameters())
    values[:] = values + 0.1 * np.arange(1, len(values) + 1) / len(values)
    made.SetParameters(values.tolist())
    return made


def _scaled(name: str, scale: float) -> sitk.Transform:
    made = getattr(sitk, name)()
    made.SetScale(scale)
    return made


KINDS = [
    ("Euler2DTransform", Rigid),
    ("Euler3DTransform", Rigid),
    ("VersorTransform", Rigid),
    ("VersorRigid3DTransform", Rigid),
    ("Similarity2DTransform", Similarity),
    ("Similarity3DTransform", Similarity),
    ("ScaleVersor3DTransform", Affine),
    ("ScaleSkewVersor3DTransform", Affine),
]


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[name for name, _ in KINDS])
def test_linear_kinds_keep_every_part(name: str, kind: type[Transform], tmp_path: Path) -> None:
    _same(_named(name), kind, tmp_path)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_similarity_keeps_its_scale(scale: float, tmp_path: Path) -> None:
    _same(_scaled("Similarity3DTransform", scale), Similarity, tmp_path)


def test_mirroring_similarity_is_affine(tmp_path: Path) -> None:
    _same(_scaled("Similarity3DTransform", -1.0), Affine, tmp_path)


@pytest.mark.parametrize("ndim", [2, 3])
def test_translation_is_rigid(ndim: int, tmp_path: Path) -> None:
    _same(sitk.TranslationTransform(ndim, (1.0, -2.0, 3.0)[:ndim]), Rigid, tmp_path)


def _same(made: sitk.Transform, kind: type[Transform], folder: Path) -> None:
    path = folder / "transform.tfm"
    sitk.WriteTransform(made, str(path))
    found = read_transform(path)
    assert type(found) is kind
    point = POINT[: made.GetDimension()]
    assert np.allclose(found(torch.tensor(point, dtype=torch.float64)), made.TransformPoint(point), atol=1e-9)


def test_kind_unknown_to_simpleitk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "composed.tfm"
    path.write_text(COMPOSED)
    with pytest.raises(TransformError, match="SimpleITK does not know") as caught:
        read_transform(path)
    assert "\n" not in str(caught.value)


def _affine() -> Affine:
    affine = Affine(3, (1.0, 2.0, 3.0))
    affine.linear.data += torch.tensor([[0.1, 0.05, 0.0], [0.0, -0.1, 0.02], [0.0, 0.0, 0.03]], dtype=torch.float64)
    affine.translation.data += torch.tensor([4.0, -5.0, 6.0], dtype=torch.float64)
    return affine.requires_grad_(False)


def _field() -> DisplacementField:
    return DisplacementField(torch.full((3, *IMAGE.grid.shape), 0.5), IMAGE.grid)


def _bend() -> ControlGrid:
    bend = ControlGrid.with_spacing(IMAGE.grid, 4.0)
    bend.coefficients.data += 0.25
    return bend.requires_grad_(False)


NOT_LINEAR = {"field": _field(), "b-spline": _bend(), "chain": Composite([_affine(), _bend()])}
NOT_LINEAR["linear chain"] = Composite([_affine(), Rigid(3)])


@pytest.mark.parametrize("ending", ITK_ENDINGS)
def test_every_ending_round_trips(ending: str, tmp_path: Path) -> None:
    for name, transform in {"affine": _affine(), **NOT_LINEAR}.items():
        if name == "affine" or ending not in ONE_MATRIX:
            path = tmp_path / f"{name.replace(' ', '_')}{ending}"
            write_transform(transform, path)
            points = IMAGE.grid.points().reshape(-1, 3)
            assert torch.allclose(read_transform(path, 3)(points), transform(points).detach(), atol=1e-4), name
    assert not list(tmp_path.glob(".part-*"))


@pytest.mark.parametrize("name", NOT_LINEAR)
@pytest.mark.parametrize("ending", ONE_MATRIX)
def test_one_matrix_cannot_hold_a_deformation(ending: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(TransformError, match="one linear transform only"):
        write_transform(NOT_LINEAR[name], tmp_path / f"t{ending}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("transform", "name"),
    [(Rigid(2), "flat.xfm"), (Rigid(3), "loud.H5"), (Rigid(3), "t.TXT"), (Rigid(3), "t.pkl"), (Rigid(3), "t")],
)
def test_what_itk_cannot_write_is_refused(transform: Transform, name: str, tmp_path: Path) -> None:
    with pytest.raises(TransformError, match=name):
        write_transform(transform, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_failure_inside_itk_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("many\nlines")

    monkeypatch.setattr(sitk, "WriteTransform", fail)
    with pytest.raises(TransformError, match="ITK cannot write"):
        write_transform(Rigid(3), tmp_path / "t.h5")
    assert not list(tmp_path.iterdir())


# --- Learn2Reg --------------------------------------------------------------------------------------------------------


def _spoiled(kind: str, folder: Path) -> Path:
    """A Learn2Reg field of `IMAGE`, spoiled in one way."""
    good, plain = folder / "good.nii.gz", folder / "good.nii"
    write_learn2reg(_field(), good, IMAGE.grid, IMAGE.grid)
    plain.write_bytes(gzip.decompress(good.read_bytes()))
    spoiled = folder / ("bad.nii" if kind in ("nii", "nan", "inf", "text", "header") else "bad.nii.gz")
    raw = plain.read_bytes()
    match kind:
        case "nii":
            spoiled.write_bytes(raw[:-40])
        case "gz":
            spoiled.write_bytes(good.read_bytes()[:-40])
        case "zipped short":
            spoiled.write_bytes(gzip.compress(raw[:-40]))
        case "nan" | "inf":
            spoiled.write_bytes(raw[:-8] + np.array([float(kind)], "<f4").tobytes() + raw[-4:])
        case "nan zipped":
            spoiled.write_bytes(gzip.compress(raw[:-4] + np.array([np.nan], "<f4").tobytes()))
        case "text":
            spoiled.write_text("not a field\n" * 100)
        case "header":
            spoiled.write_bytes(raw[:200])
        case "empty":
            spoiled.write_bytes(b"")
        case "not zipped":
            spoiled.write_bytes(raw)
        case "image":
            write_image(IMAGE, spoiled)
        case "vectors":
            write_transform(_field(), spoiled, IMAGE.grid)
        case "mha" | "h5":
            spoiled = folder / f"bad.{kind}"
            write_transform(_field(), spoiled, IMAGE.grid)
    return spoiled


SPOILED = {
    "nii": "truncated",
    "gz": "truncated or damaged",
    "zipped short": "truncated",
    "nan": "NaN or infinite",
    "inf": "NaN or infinite",
    "nan zipped": "NaN or infinite",
    "text": "not a NIfTI",
    "header": "not a NIfTI",
    "empty": "empty",
    "not zipped": "not gzip",
    "image": "expected a field of shape",
    "vectors": "expected a field of shape",
    "mha": "is a NIfTI file",
    "h5": "is a NIfTI file",
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_learn2reg_field_is_refused(kind: str, tmp_path: Path) -> None:
    path = _spoiled(kind, tmp_path)
    with pytest.raises(TransformError, match=SPOILED[kind]) as caught:
        read_learn2reg(path, IMAGE.grid, IMAGE.grid)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("kind", SPOILED)
def test_warp_refuses_spoiled_learn2reg_field(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, image, out = _spoiled(kind, tmp_path), tmp_path / "image.nii.gz", tmp_path / "out.nii.gz"
    write_image(IMAGE, image)
    before = sorted(tmp_path.iterdir())
    assert run(["warp", str(image), str(path), "--like", str(image), "-o", str(out), "--learn2reg"]) == 2
    assert sorted(tmp_path.iterdir()) == before
    assert "Traceback" not in capfd.readouterr().err


def test_warp_takes_good_learn2reg_field(tmp_path: Path) -> None:
    image, field, out = tmp_path / "image.nii.gz", tmp_path / "field.nii.gz", tmp_path / "out.nii.gz"
    write_image(IMAGE, image)
    write_learn2reg(_field(), field, IMAGE.grid, IMAGE.grid)
    assert run(["warp", str(image), str(field), "--like", str(image), "-o", str(out), "--learn2reg"]) == 0
    assert out.is_file()
    again = read_learn2reg(field, IMAGE.grid, IMAGE.grid)
    points = IMAGE.grid.points()
    assert torch.allclose(again(points), _field()(points), atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_learn2reg_array_must_be_finite(value: float) -> None:
    field = np.zeros((*IMAGE.grid.size, 3), np.float32)
    field[1, 2, 3, 0] = value
    with pytest.raises(TransformError, match="NaN or infinite"):
        of_learn2reg(field, IMAGE.grid, IMAGE.grid)
