"""Known answers: the driver must recover misalignments that were made, whatever the metric, grid and contrast."""

import math
import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from regsim.errors import GridError, InputError, RegistrationError, RegsimError
from regsim.evaluation.accuracy import dice, foreground_points, true_errors
from regsim.images import Grid, Image
from regsim.images.examples import brain
from regsim.metrics import MeanSquaredError, load_metric
from regsim.metrics.base import AbstractMetric
from regsim.prepare import coarser
from regsim.registration import Schedule, register, schedule_for
from regsim.registration.penalties import PENALTIES, bending, diffusion, jacobian
from regsim.registration.schedule import Level, Stage
from regsim.transforms import Affine, Composite, ControlGrid, Rigid, Similarity, VelocityField, warp


@cache
def brain_at(contrast: str, spacing: float = 4.0) -> Image:
    return replace(coarser(brain(contrast), spacing), mask=None)


@cache
def slice_of(contrast: str) -> Image:
    volume = brain_at(contrast, 2.0)
    return Image.of_array(volume.data[0, 45], name=f"{contrast} slice")


def known_rigid(image: Image, degrees: float = 8.0, shift: float = 2.0) -> Rigid:
    known = Rigid(image.ndim, image.grid.centre)
    with torch.no_grad():
        known.rotation.copy_(
            torch.tensor([degrees, -0.5 * degrees, 0.7 * degrees])[: known.rotation.numel()] * math.pi / 180
        )
        known.translation.copy_(shift * torch.tensor([1.0, -1.5, 0.8])[: image.ndim])
    return known


def moved(image: Image, known: torch.nn.Module, pad: int = 4) -> Image:
    grid = image.grid.padded(pad)
    return replace(warp(image, known.inverse(grid), grid, "cubic"), mask=None)


def error(found, known, fixed: Image) -> float:
    return float(true_errors(found.transform, known, foreground_points(fixed)).mean())


@pytest.mark.parametrize("metric", ["mse", "mae", "ncc", "lncc", "ssim", "mi", "nmi", "mind", "ngf"])
def test_every_metric_recovers_a_rigid_motion_in_2d(metric: str) -> None:
    fixed = slice_of("t1")
    known = known_rigid(fixed)
    assert error(register(fixed, moved(fixed, known), metric, "rigid"), known, fixed) < 0.1


@pytest.mark.parametrize("metric", ["nmi", "mind"])
def test_rigid_across_contrasts_in_3d(metric: str) -> None:
    # 3 mm: at 4 mm the painted T2's rims alone move the optimum of nmi by half a mm (docs/lab-notes.md)
    fixed, known = brain_at("t1", 3.0), known_rigid(brain_at("t1", 3.0), 10.0, 8.0)
    assert error(register(fixed, moved(brain_at("t2", 3.0), known), metric, "rigid"), known, fixed) < 0.5


@pytest.mark.parametrize(("goal", "made"), [("similarity", Similarity), ("affine", Affine)])
def test_similarity_and_affine(goal, made) -> None:
    fixed = slice_of("t1")
    known = made(2, fixed.grid.centre)
    turn = known_rigid(fixed).matrix().detach()
    stretch = torch.eye(2, dtype=torch.float64) * 1.1
    if goal == "affine":
        stretch = stretch @ torch.tensor([[1.0, 0.08], [0.02, 0.95]], dtype=torch.float64)
    known.set_matrix(turn @ stretch)
    assert error(register(fixed, moved(fixed, known, 10), "ncc", goal), known, fixed) < 0.15


def test_anisotropic_oblique_left_handed_grids() -> None:
    volume = brain_at("t1", 3.0)
    tilt = known_rigid(volume, 12.0, 0.0).matrix().detach().numpy().copy()
    tilt[:, 0] *= -1
    corner = volume.grid.centre - tilt @ ([69.0, 81.0, 66.0])
    thick = Grid((47, 55, 23), (3.0, 3.0, 6.0), tuple(corner.tolist()), tuple(map(tuple, tilt.tolist())))
    fixed = replace(warp(volume, None, thick), mask=None)
    known = known_rigid(volume, 7.0, 5.0)
    assert error(register(fixed, moved(volume, known), "nmi", "rigid"), known, fixed) < 0.5


def known_bend(grid: Grid, size: float = 4.0) -> VelocityField:
    coarse = torch.randn((1, grid.ndim, *(4,) * grid.ndim), generator=torch.Generator().manual_seed(3))
    mode = "bilinear" if grid.ndim == 2 else "trilinear"
    field = torch.nn.functional.interpolate(coarse, size=grid.shape, mode=mode, align_corners=True)[0]
    return VelocityField(field / field.norm(dim=0).max() * size, grid)


@pytest.mark.parametrize("goal", ["deformable", "diffeomorphic"])
@pytest.mark.parametrize("metric", ["lncc:window=7", None])
def test_deformation_in_2d_without_folding(goal, metric) -> None:
    fixed = slice_of("t1")
    known = Composite([known_rigid(fixed, 4.0, 2.0), known_bend(fixed.grid)])
    moving = moved(fixed if metric else slice_of("t2"), known, 12)
    found = register(fixed, moving, metric, goal)
    assert error(found, known, fixed) < (0.4 if metric else 1.0)
    with torch.no_grad():
        assert float(found.transform.jacobian_determinant(fixed.grid).min()) > 0


def test_deformation_in_3d_and_labels_follow() -> None:
    fixed = brain_at("t1")
    known = Composite([known_rigid(fixed, 4.0, 3.0), known_bend(fixed.grid, 6.0)])
    moving = moved(fixed, known)
    found = register(fixed, moving, "lncc:window=5", "deformable")
    assert isinstance(found.transform, Composite)
    assert [type(part) for part in found.transform.parts()] == [Affine, ControlGrid]
    assert error(found, known, fixed) < 1.0
    labels = fixed.with_data((fixed.data * 4).round().long())
    carried = found.warped(replace(warp(labels, known.inverse(moving.grid), moving.grid), mask=None))
    overlaps = dice(labels, carried)
    assert sum(overlaps.values()) / len(overlaps) > 0.8


class Scaled(AbstractMetric):
    """MSE in other units: the registration must not notice."""

    name = "scaled"
    higher_is_better = False
    factor = 1.0

    def _bind(self, fixed, weights):
        return MeanSquaredError()._bind(fixed, weights)

    def _compare(self, state, moving, overlap):
        return self.factor * MeanSquaredError()._compare(state, moving, overlap)


@pytest.mark.parametrize("goal", ["affine", "deformable"])
def test_the_scale_of_the_metric_does_not_matter(goal) -> None:
    fixed = slice_of("t1")
    moving = moved(fixed, Composite([known_rigid(fixed, 3.0, 1.0), known_bend(fixed.grid, 2.0)]), 8)
    results = []
    for factor in (1.0, 1024.0):
        metric = Scaled()
        metric.factor = factor
        results.append(register(fixed, moving, metric, goal).transform)
    points = foreground_points(fixed)
    assert float(true_errors(results[0], results[1], points).max()) < 0.02


def test_the_same_twice() -> None:
    fixed = slice_of("t1")
    moving = moved(slice_of("t2"), known_rigid(fixed))
    first, second = (register(fixed, moving, "nmi", "rigid").transform for _ in range(2))
    assert torch.equal(first.homogeneous(), second.homogeneous())


def test_masks_take_a_lesion_out_of_the_comparison() -> None:
    fixed = slice_of("t1")
    known = known_rigid(fixed, 5.0, 3.0)
    moving = moved(fixed, known)
    scarred = fixed.data.clone()
    scarred[:, 20:60, 15:60] = torch.rand((40, 45), generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.ones_like(scarred)
    mask[:, 20:60, 15:60] = 0
    masked = replace(fixed, data=scarred, mask=mask)
    assert error(register(masked, moving, "mse", "rigid"), known, fixed) < 0.2
    assert error(register(replace(masked, mask=None), moving, "mse", "rigid"), known, fixed) > 0.2


def test_moving_field_of_view_that_ends_inside_the_head() -> None:
    fixed = brain_at("t1")
    known = known_rigid(fixed, 5.0, 5.0)
    whole = moved(brain_at("t2"), known)
    grid = replace(whole.grid, size=(whole.grid.size[0], whole.grid.size[1], 26))
    part = Image(whole.data[:, :26], grid)
    assert error(register(fixed, part, "nmi", "rigid"), known, fixed) < 1.0


def test_upside_down_is_found_from_the_moments() -> None:
    fixed = slice_of("t1")
    known = Rigid(2, fixed.grid.centre)
    with torch.no_grad():
        known.rotation.fill_(math.radians(172))
        known.translation.copy_(torch.tensor([12.0, -7.0]))
    moving = moved(fixed, known, 20)
    plan = schedule_for("rigid", fixed.grid, "ncc", start="moments")
    assert error(register(fixed, moving, schedule=plan), known, fixed) < 0.2


def test_far_apart_in_space_is_found_from_the_centres() -> None:
    fixed = slice_of("t1")
    away = replace(fixed.grid, origin=(900.0, -400.0))
    found = register(fixed, replace(fixed, grid=away), "ncc", "rigid")
    assert found.transform(torch.zeros(1, 2))[0].tolist() == pytest.approx([900.0, -400.0], abs=0.1)


def test_a_given_start_is_used() -> None:
    fixed = slice_of("t1")
    known = known_rigid(fixed, 40.0, 10.0)
    moving = moved(fixed, known, 25)
    found = register(fixed, moving, "mind", "rigid", initial=known_rigid(fixed, 37.0, 9.0))
    assert found.start == "given"
    assert error(found, known, fixed) < 0.1


def test_powell_needs_no_gradient() -> None:
    fixed = slice_of("t1")
    known = known_rigid(fixed)
    metric = load_metric("nmi")
    type(metric).differentiable, before = False, type(metric).differentiable
    try:
        plan = schedule_for("rigid", fixed.grid, "nmi", optimiser="powell")
        found = register(fixed, moved(slice_of("t2"), known), schedule=plan)
        with pytest.raises(RegsimError, match="has no gradient"):
            register(fixed, fixed, "nmi", "rigid")
    finally:
        type(metric).differentiable = before
    assert error(found, known, fixed) < 0.3


def test_log_has_a_row_a_level_and_calls_back_each_step() -> None:
    fixed = slice_of("t1")
    rows = []
    found = register(fixed, moved(fixed, known_rigid(fixed)), "ncc", "affine", on_step=rows.append)
    assert len(rows) == len(found.steps) == sum(level.iterations for level in found.levels)
    assert len(rows) <= found.schedule.total_steps
    assert all(level.cost_last <= level.cost_first for level in found.levels)
    assert [level.spacing for level in found.levels] == sorted((level.spacing for level in found.levels), reverse=True)


class Breaks(Scaled):
    """Turns into NaN at one call."""

    calls, at = 0, math.inf

    def _compare(self, state, moving, overlap):
        Breaks.calls += 1
        return super()._compare(state, moving, overlap) * (math.nan if Breaks.calls >= Breaks.at else 1.0)


def broken_at(share: float, fixed: Image, moving: Image, plan: Schedule) -> RegistrationError:
    """What a registration raises whose cost becomes NaN after this share of its calls."""
    Breaks.calls, Breaks.at = 0, math.inf
    register(fixed, moving, Breaks(), schedule=plan)
    Breaks.calls, Breaks.at = 0, math.ceil(share * Breaks.calls)
    with pytest.raises(RegistrationError) as caught:
        register(fixed, moving, Breaks(), schedule=plan)
    return caught.value


def test_nan_stops_with_the_step_and_the_last_good_transform() -> None:
    fixed = slice_of("t1")
    known = known_rigid(fixed)
    problem = broken_at(0.9, fixed, moved(fixed, known), schedule_for("rigid", fixed.grid, Breaks.name))
    assert re.search(r"stopped at step \d+ \(rigid\): the cost is NaN", str(problem))
    assert problem.step > 5
    assert isinstance(problem.last_good, Rigid)
    points = foreground_points(fixed)
    last = float(true_errors(problem.last_good, known, points).mean())
    assert last < float(true_errors(Rigid(2), known, points).mean())


def test_refusals() -> None:
    flat, volume = slice_of("t1"), brain_at("t1")
    with pytest.raises(GridError, match="2-D"):
        register(flat, volume)
    with pytest.raises(InputError, match="constant"):
        register(flat, flat.with_data(torch.ones_like(flat.data)))
    away = replace(flat, grid=replace(flat.grid, origin=(5000.0, 0.0)))
    with pytest.raises(GridError, match="no overlap"):
        register(flat, away, schedule=schedule_for("rigid", flat.grid, start="identity"))
    with pytest.raises(GridError, match="px"):
        register(flat, replace(flat, grid=replace(flat.grid, unit="mm")))
    with pytest.raises(RegsimError, match="did you mean 'rigid'"):
        register(flat, flat, transform="rigit")  # type: ignore[arg-type]
    with pytest.raises(GridError, match="initial transform is 3-D"):
        register(flat, flat, initial=Rigid(3))


def test_a_schedule_may_chain_any_stages() -> None:
    fixed = slice_of("t1")
    known = Composite([known_rigid(fixed, 4.0, 2.0), known_bend(fixed.grid, 3.0)])
    moving = moved(fixed, known, 8)
    dense = {"diffusion": 1.0, "jacobian": 40.0}
    stages = (
        Stage(transform="rigid", metric="ncc", levels=(Level(spacing=4, steps=40, step=1),)),
        Stage(
            transform="control_grid",
            metric="ncc",
            levels=(Level(spacing=2, steps=40, step=0.5, control_spacing=16),),
            penalties=dense,
        ),
        Stage(
            transform="velocity",
            metric="lncc:window=7",
            levels=(Level(spacing=1, steps=40, step=0.25, control_spacing=8),),
            penalties=dense,
        ),
    )
    found = register(fixed, moving, schedule=Schedule(stages=stages))
    assert [type(part).__name__ for part in found.transform.parts()] == ["Rigid", "ControlGrid", "VelocityField"]
    assert error(found, known, fixed) < 0.5


def test_penalties_have_their_closed_forms() -> None:
    grid = Grid.of((9, 10, 11), (1.0, 2.0, 0.5))
    points = grid.points(torch.float64)
    shear = torch.zeros_like(points)
    shear[..., 0] = 0.3 * points[..., 1] + 0.1 * points[..., 2]
    assert float(diffusion(shear, grid)) == pytest.approx(0.3**2 + 0.1**2)
    assert float(bending(shear, grid)) == pytest.approx(0.0, abs=1e-12)
    curved = torch.zeros_like(points)
    curved[..., 2] = 0.5 * points[..., 0] * points[..., 0] + points[..., 0] * points[..., 1]
    assert float(bending(curved, grid)) == pytest.approx(1.0 + 2.0)
    flat = -0.9 * points
    assert float(jacobian(flat, grid)) == pytest.approx((0.2 - 0.1**3) ** 2)
    assert all(float(penalty(torch.full_like(points, 3.0), grid)) == 0.0 for penalty in PENALTIES.values())


def test_soft_masks_of_coarse_levels_stay_within_bounds() -> None:
    fixed = slice_of("t1")
    known = known_rigid(fixed)
    moving = moved(fixed, known)
    disc = (fixed.data > 0.05).float()
    around = (moving.data > 0.02).float()
    found = register(replace(fixed, mask=disc), replace(moving, mask=around), "ncc", "affine")
    assert error(found, known, fixed) < 0.2


def test_small_metric_units_do_not_matter_either() -> None:
    fixed = slice_of("t1")
    known = known_rigid(fixed)
    metric = Scaled()
    metric.factor = 1e-10
    assert error(register(fixed, moved(fixed, known), metric, "rigid"), known, fixed) < 0.1


def test_a_start_that_scales_is_kept_or_refused() -> None:
    fixed = slice_of("t1")
    known = Similarity(2, fixed.grid.centre)
    known.set_matrix(known_rigid(fixed).matrix().detach() * 1.5)
    moving = moved(fixed, known, 40)
    for goal in ("similarity", "affine"):
        assert error(register(fixed, moving, "ncc", goal, initial=known), known, fixed) < 0.2
    with pytest.raises(RegsimError, match="use affine"):
        register(fixed, moving, "ncc", "rigid", initial=known)


def test_a_start_without_overlap_is_bad_input() -> None:
    fixed = slice_of("t1")
    away = known_rigid(fixed, 0.0, 4000.0)
    for optimiser in ("gradient", "powell"):
        plan = schedule_for("rigid", fixed.grid, "ncc", optimiser=optimiser)
        with pytest.raises(GridError, match="no overlap"):
            register(fixed, fixed, initial=away, schedule=plan)


def test_last_good_transform_of_a_velocity_is_its_integral() -> None:
    fixed = slice_of("t1")
    moving = moved(fixed, Composite([known_rigid(fixed, 3.0, 1.0), known_bend(fixed.grid, 4.0)]), 8)
    plan = schedule_for("diffeomorphic", fixed.grid, Breaks.name, linear_metric=Breaks.name)
    problem = broken_at(0.9, fixed, moving, plan)
    assert "velocity" in str(problem)
    assert isinstance(problem.last_good, Composite)
    assert isinstance(problem.last_good.parts()[-1], VelocityField)


def test_a_metric_object_must_drive_a_stage_of_the_schedule() -> None:
    fixed = slice_of("t1")
    with pytest.raises(RegsimError, match="no stage"):
        register(fixed, fixed, load_metric("mse"), schedule=schedule_for("rigid", fixed.grid, "nmi"))


def test_thin_masks_do_not_vanish_at_coarse_levels() -> None:
    image = slice_of("t1")
    mask = torch.zeros_like(image.data)
    mask[:, 40:45, 30:36] = 1
    coarse = coarser(replace(image, mask=mask), 8.0)
    area = float(coarse.mask.sum()) * math.prod(coarse.grid.spacing)
    assert area == pytest.approx(30.0, rel=0.1)


def test_what_lies_outside_a_mask_does_not_bleed_in() -> None:
    image = slice_of("t1")
    mask = (image.data > 0.05).float()
    spoiled = torch.where(mask > 0, image.data, torch.full_like(image.data, math.nan))
    clean, other = (coarser(Image(data, image.grid, mask).filled(), 4.0) for data in (image.data, spoiled))
    seen = clean.mask > 0.01
    assert torch.allclose(clean.data[seen], other.data[seen], atol=1e-5)
    known = known_rigid(image)
    found = register(Image(spoiled, image.grid, mask, "spoiled"), moved(image, known), "ncc", "rigid")
    assert error(found, known, image) < 0.2


def test_volumes_of_two_slices_and_other_number_types() -> None:
    volume = brain_at("t1")
    part = Image(volume.data[:, 20:22].double(), replace(volume.grid, size=(*volume.grid.size[:2], 2)))
    assert 100 < len(foreground_points(part)) < part.grid.voxels
    flat = slice_of("t1")
    found = register(
        Image(flat.data.double(), flat.grid), Image((flat.data * 255).to(torch.int32), flat.grid), "ncc", "rigid"
    )
    assert error(found, Rigid(2), flat) < 0.1
