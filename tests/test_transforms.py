"""Transforms against SimpleITK, on grids that are anisotropic, oblique and left-handed."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regsim.errors import TransformError
from regsim.images import Grid, Image
from regsim.transforms import (
    Affine,
    Composite,
    ControlGrid,
    DisplacementField,
    Rigid,
    Similarity,
    VelocityField,
    read_transform,
    warp,
    write_transform,
)
from regsim.transforms.base import Transform
from regsim.transforms.learn2reg import of_learn2reg, read_learn2reg, to_learn2reg, write_learn2reg


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def oblique_grid(ndim: int, left_handed: bool = True) -> Grid:
    turn = Rigid(ndim)
    with torch.no_grad():
        turn.rotation.copy_(torch.tensor([0.3, -0.5, 0.2][: turn.rotation.numel()]))
    direction = turn.matrix().detach().numpy().copy()
    if left_handed:
        direction[:, 0] *= -1
    rows = tuple(tuple(row) for row in direction.tolist())
    return Grid((24, 20, 16)[:ndim], (1.0, 1.5, 3.0)[:ndim], (-40.0, 12.0, 7.5)[:ndim], rows)


def smooth_field(grid: Grid, amplitude: float, seed: int = 0) -> torch.Tensor:
    coarse = torch.randn((1, grid.ndim, *(4,) * grid.ndim), generator=generator(seed))
    mode = "bilinear" if grid.ndim == 2 else "trilinear"
    fine = torch.nn.functional.interpolate(coarse, size=grid.shape, mode=mode, align_corners=True)[0]
    return fine / fine.abs().max() * amplitude


def examples(ndim: int) -> dict[str, Transform]:
    grid = oblique_grid(ndim)
    rigid, similarity, affine = Rigid(ndim, grid.centre), Similarity(ndim, grid.centre), Affine(ndim, grid.centre)
    with torch.no_grad():
        for linear in (rigid, similarity):
            linear.rotation.copy_(torch.tensor([0.4, -0.2, 0.1][: linear.rotation.numel()]))
            linear.translation.copy_(torch.tensor([3.0, -2.0, 1.5][:ndim]))
        similarity.log_scale.fill_(math.log(1.2))
        affine.linear.copy_(torch.eye(ndim) + 0.1 * torch.randn((ndim, ndim), generator=generator(1)))
        affine.translation.copy_(torch.tensor([-4.0, 2.0, 0.5][:ndim]))
    control = ControlGrid.with_spacing(grid, 8.0)
    with torch.no_grad():
        control.coefficients.copy_(torch.randn(control.coefficients.shape, generator=generator(2)))
    field = DisplacementField(smooth_field(grid, 2.0), grid)
    velocity = VelocityField(smooth_field(grid, 2.0, 3), grid)
    return {
        "rigid": rigid,
        "similarity": similarity,
        "affine": affine,
        "control_grid": control,
        "displacement": field,
        "velocity": velocity,
        "composite": Composite([affine, control]),
    }


NAMES = list(examples(2))


def textured(grid: Grid) -> Image:
    coarse = torch.rand((1, 1, *(6,) * grid.ndim), generator=generator(5))
    mode = "bilinear" if grid.ndim == 2 else "trilinear"
    data = torch.nn.functional.interpolate(coarse, size=grid.shape, mode=mode, align_corners=True)[0]
    return Image(data, grid)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_points_map_as_in_itk(name: str, ndim: int) -> None:
    transform, grid = examples(ndim)[name], oblique_grid(ndim)
    index = torch.rand((200, ndim), generator=generator(4), dtype=torch.float64) * (torch.tensor(grid.size) - 3.0) + 1.0
    points = grid.index_to_physical(index)
    ours = transform(points).detach().double()
    itk = transform.to_itk()
    theirs = torch.tensor([itk.TransformPoint(point) for point in points.tolist()], dtype=torch.float64)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_mapping_of_a_grid_equals_mapping_its_points(name: str, ndim: int) -> None:
    transform, grid = examples(ndim)[name], oblique_grid(ndim)
    inner = grid.with_spacing(tuple(1.3 * s for s in grid.spacing))
    for target in (grid, inner):
        assert torch.allclose(transform.mapping(target)().float(), transform(target.points()).float(), atol=2e-4)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_files_round_trip(name: str, ndim: int, tmp_path) -> None:
    transform, grid = examples(ndim)[name], oblique_grid(ndim)
    write_transform(transform, tmp_path / "transform.h5")
    again = read_transform(tmp_path / "transform.h5", ndim)
    points = grid.points()
    assert torch.allclose(again(points).float(), transform(points).float(), atol=1e-4)
    assert not list(tmp_path.glob(".part-*"))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_warp_equals_sitk_resample(name: str, ndim: int) -> None:
    transform, grid = examples(ndim)[name], oblique_grid(ndim)
    image = textured(grid)
    ours = warp(image, transform, grid)
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(image.to_sitk(), image.to_sitk(), transform.to_itk(), sitk.sitkLinear, 0.0)
    )
    inner = (ours.mask[0] > 0).numpy() & (theirs != 0)
    assert inner.mean() > 0.3
    assert np.abs(ours.data[0].detach().numpy() - theirs)[inner].max() < 1e-3


@pytest.mark.parametrize("ndim", [2, 3])
def test_cubic_warp_equals_sitk_bspline_inside(ndim: int) -> None:
    transform, grid = examples(ndim)["rigid"], oblique_grid(ndim)
    image = textured(grid)
    ours = warp(image, transform, grid, method="cubic").data[0].numpy()
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(image.to_sitk(), image.to_sitk(), transform.to_itk(), sitk.sitkBSpline, -1.0)
    )
    index = grid.physical_to_index(transform(grid.points()).detach())
    deep = ((index > 3) & (index < torch.tensor(grid.size) - 4)).all(dim=-1).numpy()
    assert deep.any()
    assert np.abs(ours - theirs)[deep].max() < 5e-3


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_inverse_undoes(name: str, ndim: int) -> None:
    transform, grid = examples(ndim)[name], oblique_grid(ndim)
    wide = grid.padded(6)
    undone = transform.inverse(wide)
    points = grid.padded(-5).points()
    error = (transform(undone(points)) - points).norm(dim=-1).detach()
    # a velocity is exact up to the voxels' own interpolation (3 mm here)
    tolerance = {"rigid": 1e-3, "similarity": 1e-3, "affine": 1e-3, "velocity": 0.2}.get(name, 0.1)
    assert float(error.max()) < tolerance


@pytest.mark.parametrize("ndim", [2, 3])
def test_jacobian_of_affine_is_its_determinant(ndim: int) -> None:
    affine, grid = examples(ndim)["affine"], oblique_grid(ndim)
    expected = float(torch.linalg.det(affine.matrix().detach()))
    assert torch.allclose(
        affine.jacobian_determinant(grid).float(), torch.tensor(expected, dtype=torch.float32), atol=1e-3
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_jacobian_equals_itk_filter(ndim: int) -> None:
    grid = oblique_grid(ndim, left_handed=False)
    identity = tuple(tuple(float(i == j) for j in range(ndim)) for i in range(ndim))
    grid = Grid(grid.size, grid.spacing, grid.origin, identity)
    field = DisplacementField(smooth_field(grid, 3.0), grid)
    ours = field.jacobian_determinant(grid).detach().numpy()
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field.to_itk().GetDisplacementField()))
    inner = (slice(1, -1),) * ndim
    assert np.abs(ours - theirs)[inner].max() < 1e-3


def test_control_grid_refines_exactly() -> None:
    for ndim in (2, 3):
        control, grid = examples(ndim)["control_grid"], oblique_grid(ndim)
        assert torch.allclose(control.refined()(grid.points()), control(grid.points()), atol=1e-4)


def test_velocity_does_not_fold() -> None:
    grid = oblique_grid(2)
    velocity = VelocityField(smooth_field(grid, 12.0), grid)
    with torch.no_grad():
        integrated = float(velocity.jacobian_determinant(grid).min())
        taken_as_displacement = float(DisplacementField(velocity.velocity, grid).jacobian_determinant(grid).min())
    assert integrated > 0 > taken_as_displacement


def test_learn2reg_round_trip_and_meaning() -> None:
    fixed, moving = oblique_grid(3), oblique_grid(3, left_handed=False)
    transform = examples(3)["composite"]
    field = to_learn2reg(transform, fixed, moving)
    assert field.shape == (*fixed.size, 3)
    index = np.array([3, 5, 7])
    point = transform(fixed.index_to_physical(torch.tensor(index, dtype=torch.float32)))
    assert np.allclose(index + field[3, 5, 7], moving.physical_to_index(point).detach().numpy(), atol=1e-3)
    again = of_learn2reg(field, fixed, moving)
    assert torch.allclose(again(fixed.points()), transform(fixed.points()).float(), atol=1e-3)
    with pytest.raises(TransformError, match="expected a field"):
        of_learn2reg(field[:-1], fixed, moving)


def test_learn2reg_files_hold_the_array_in_its_own_order(tmp_path) -> None:
    import nibabel

    fixed, moving, transform = oblique_grid(3), oblique_grid(3, left_handed=False), examples(3)["composite"]
    path = tmp_path / "disp.nii.gz"
    write_learn2reg(transform, path, fixed, moving)
    assert np.allclose(np.asarray(nibabel.load(path).dataobj), to_learn2reg(transform, fixed, moving), atol=1e-5)
    again = read_learn2reg(path, fixed, moving)
    assert torch.allclose(again(fixed.points()), transform(fixed.points()).float(), atol=1e-3)
    with pytest.raises(TransformError, match="does not exist"):
        read_learn2reg(tmp_path / "none.nii.gz", fixed, moving)


def test_flat_field_is_a_nifti_with_vector_intent(tmp_path) -> None:
    import nibabel

    transform, grid = examples(3)["composite"], oblique_grid(3)
    write_transform(transform, tmp_path / "field.nii.gz", grid)
    header = nibabel.load(tmp_path / "field.nii.gz").header
    assert int(header["intent_code"]) == 1007
    again = read_transform(tmp_path / "field.nii.gz", 3)
    assert torch.allclose(again(grid.points()), transform(grid.points()).float(), atol=1e-3)


def test_labels_survive_a_warp_exactly() -> None:
    grid = oblique_grid(3)
    labels = torch.tensor([0, 3, 2**24 + 1, 2**31 + 7])[torch.randint(0, 4, (1, *grid.shape), generator=generator(6))]
    image = Image(labels, grid)
    carried = warp(image, examples(3)["rigid"], grid)
    assert carried.is_labels
    assert set(carried.data.unique().tolist()) <= set(labels.unique().tolist())
    assert torch.equal(warp(image).data, labels)


def test_gradient_of_mapping_reaches_every_parameter() -> None:
    for ndim in (2, 3):
        for name, transform in examples(ndim).items():
            transform.mapping(oblique_grid(ndim))().square().mean().backward()
            assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in transform.parameters()), name


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("nonsense"), "not a transform"),
        (lambda path: path.write_bytes(b""), "not a transform"),
    ],
)
def test_bad_transform_files(write, message: str, tmp_path) -> None:
    path = tmp_path / "transform.txt"
    write(path)
    with pytest.raises(TransformError, match=message):
        read_transform(path)


def test_transform_of_another_dimension_and_singular(tmp_path) -> None:
    write_transform(Rigid(2), tmp_path / "t.h5")
    with pytest.raises(TransformError, match="2-D, the images are 3-D"):
        read_transform(tmp_path / "t.h5", 3)
    (tmp_path / "flat.txt").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_2_2\n"
        "Parameters: 1 0 0 0 0 0\nFixedParameters: 0 0\n"
    )
    with pytest.raises(TransformError, match=r"not invertible|not a transform"):
        read_transform(tmp_path / "flat.txt")


def test_linear_kinds_that_simpleitk_has_no_class_for_are_read(tmp_path) -> None:
    path = tmp_path / "ants.txt"
    path.write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: MatrixOffsetTransformBase_double_3_3\n"
        "Parameters: 0 -1 0 1 0 0 0 0 1 4 5 6\nFixedParameters: 1 2 3\n"
    )
    found = read_transform(path, 3)
    expected = sitk.ReadTransform(str(path)).TransformPoint((7.0, 8.0, 9.0))
    assert found(torch.tensor([[7.0, 8.0, 9.0]], dtype=torch.float64)).detach()[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("ndim", [2, 3])
def test_inverse_of_a_chain_whose_images_lie_far_apart(ndim: int) -> None:
    fixed = oblique_grid(ndim)
    affine, control = Affine(ndim, fixed.centre), examples(ndim)["control_grid"]
    with torch.no_grad():
        affine.translation.copy_(torch.tensor([300.0, -150.0, 80.0][:ndim]))
    chain = Composite([affine, control])
    moving = Grid(
        fixed.size,
        fixed.spacing,
        tuple((torch.tensor(fixed.origin) + affine.translation.detach()).tolist()),
        fixed.direction,
    )
    points = fixed.padded(-5).points()
    with torch.no_grad():
        assert float((chain.inverse(moving)(chain(points)) - points).norm(dim=-1).max()) < 0.15


def test_inverse_of_a_field_that_carries_a_shift() -> None:
    grid = Grid.of((32, 32))
    field = smooth_field(grid, 1.0) + torch.tensor([100.0, 8.0])[:, None, None]
    moving = Grid(grid.size, grid.spacing, (100.0, 8.0), grid.direction)
    transform = DisplacementField(field, grid)
    points = grid.padded(-4).points()
    with torch.no_grad():
        assert float((transform.inverse(moving)(transform(points)) - points).norm(dim=-1).max()) < 0.1


def test_inverse_of_a_velocity_is_its_negative_and_mirrors_are_no_similarities() -> None:
    grid = oblique_grid(2)
    velocity = VelocityField(smooth_field(grid, 3.0), grid)
    assert torch.equal(velocity.inverse().velocity, -velocity.velocity)
    with pytest.raises(TransformError, match="mirror"):
        Similarity(2).set_matrix(torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)))
