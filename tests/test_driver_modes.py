"""How the driver searches, samples, leaves out and looks both ways."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from regsim.errors import RegsimError, SettingsError
from regsim.images import Image
from regsim.metrics import REGISTRY, load_metric
from regsim.prepare import centre_of_mass, coarse_grid, coarser, principal_axes, smoothed
from regsim.registration import Schedule, register, schedule_for
from regsim.registration.descent import Outcome
from regsim.registration.level import Level
from regsim.registration.pyramid import Pyramid
from regsim.registration.quasi_newton import lower
from regsim.registration.schedule import Stage
from regsim.registration.search import everywhere, turns
from regsim.registration.translations import best_translations
from regsim.transforms import Affine, Composite, Rigid, warp

from .test_registration import brain_at, error, known_bend, known_rigid, moved, slice_of


def upside_down(image: Image, degrees: float, shift: float) -> Rigid:
    known = Rigid(image.ndim, image.grid.centre)
    turn = torch.tensor([degrees]) if image.ndim == 2 else degrees * torch.tensor([0.6, 0.0, 0.8])
    known.rotation.data.copy_(torch.deg2rad(turn))
    known.translation.data.copy_(shift * torch.tensor([1.0, -1.0, 1.0])[: image.ndim])
    return known


# --- search ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [80.0, 175.0])
def test_search_finds_a_brain_that_lies_upside_down(degrees: float) -> None:
    fixed, other = brain_at("t1"), brain_at("t2")
    known = upside_down(fixed, degrees, 30.0)
    moving = moved(other, known, 20)
    found = register(fixed, moving, schedule=schedule_for("rigid", fixed.grid, start="search"))
    assert error(found, known, fixed) < 1.0
    assert found.start.startswith("search")
    if degrees < 90:
        return
    near = register(fixed, moving, schedule=schedule_for("rigid", fixed.grid, start="auto"))
    assert error(near, known, fixed) > 20


def test_search_in_2d() -> None:
    fixed = slice_of("t1")
    known = upside_down(fixed, 160.0, 8.0)
    plan = schedule_for("rigid", fixed.grid, "mind", start="search")
    assert error(register(fixed, moved(fixed, known, 20), schedule=plan), known, fixed) < 0.3


def test_mirrored_images_are_found_only_where_they_were_asked_for() -> None:
    whole = slice_of("t1")  # the template is symmetric: a dark quarter tells left from right
    fixed = whole.with_data(whole.data * torch.where(whole.grid.points()[..., 0] < 40, 0.4, 1.0))
    known = Affine(2, fixed.grid.centre)
    known.set_matrix(
        known_rigid(fixed, 100.0).matrix().detach() @ torch.diag(torch.tensor([-1.0, 1.0], dtype=torch.float64))
    )
    moving = moved(fixed, known, 20)
    plan = schedule_for("affine", fixed.grid, "nmi", start="search", flips=True)
    assert error(register(fixed, moving, schedule=plan), known, fixed) < 0.5
    assert error(register(fixed, moving, schedule=plan.model_copy(update={"flips": False})), known, fixed) > 2
    for goal, start in (("rigid", "search"), ("affine", "auto")):
        with pytest.raises(SettingsError, match="mirrored"):
            schedule_for(goal, fixed.grid, start=start, flips=True)


def test_turns_cover_all_rotations() -> None:
    drawn = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn /= drawn.norm(dim=1, keepdim=True)
    vectors = turns(3)
    angle = vectors.norm(dim=1, keepdim=True)
    axis = vectors / angle.clamp_min(1e-12)
    spread = torch.cat([torch.sin(angle / 2) * axis, torch.cos(angle / 2)], dim=1)
    nearest = (drawn @ spread.T).abs().amax(dim=1).clamp(max=1)
    assert math.degrees(2 * math.acos(float(nearest.min()))) < 24
    assert not vectors[0].any()


def part_of(image: Image, axis: int, first: int, count: int) -> Image:
    """Some slices only; axis 0 is x."""
    corner = torch.zeros(image.ndim, dtype=torch.float64)
    corner[axis] = first
    size = list(image.grid.size)
    size[axis] = count
    origin = tuple(image.grid.index_to_physical(corner).tolist())
    data = image.data.narrow(image.ndim - axis, first, count)
    return Image(data, replace(image.grid, size=tuple(size), origin=origin), name="part")


@pytest.mark.parametrize("case", ["whole", "slab moves", "slab is fixed", "small mask", "wide field"])
def test_the_best_translation_is_found_for_a_known_turn(case: str) -> None:
    image = brain_at("t1")
    fixed, moving = image, image
    if case == "slab moves":
        moving = part_of(image, 2, 20, 10)
    if case == "slab is fixed":
        fixed = part_of(image, 2, 20, 10)
    if case == "small mask":
        mask = torch.zeros_like(image.data)
        mask[:, 4:44, 8:50, 4:22] = 1
        fixed = replace(image, mask=mask)
    if case == "wide field":
        moving = warp(image, None, image.grid.padded(40))
    known = known_rigid(image, 0.0, 24.0)
    moving = replace(
        moving, grid=replace(moving.grid, origin=tuple(known(torch.tensor(moving.grid.origin).double()).tolist()))
    )
    (found,) = best_translations(fixed, replace(moving, mask=None), torch.zeros(1, 3, dtype=torch.float64), 5)
    pitch = max(float(fixed.grid.extent.max()) / 12, float(np.linalg.norm(moving.grid.extent)) / 40)
    assert float((found.offset() - known.offset()).detach().norm()) < pitch


def test_candidates_are_proper_rotations_unless_flipped() -> None:
    image = slice_of("t1")
    found = everywhere(image, image, flips=True)
    signs = {
        (name.endswith("flipped"), round(float(torch.linalg.det(start.matrix().detach())), 6))
        for name, start in found.items()
    }
    assert signs == {(False, 1.0), (True, -1.0)}


# --- both ways ------------------------------------------------------------------------------------------------------


def test_symmetric_registration_prefers_neither_image() -> None:
    fixed = slice_of("t1")
    moving = moved(fixed, known_bend(fixed.grid, 5.0), 0)
    start = Rigid(2, fixed.grid.centre)

    def both(symmetric: bool) -> float:
        plan = schedule_for("diffeomorphic", fixed.grid, "lncc:window=7", symmetric=symmetric)
        plan = plan.model_copy(update={"stages": plan.stages[-1:]})
        there = register(fixed, moving, schedule=plan, initial=start).transform
        back = register(moving, fixed, schedule=plan, initial=start).transform
        points = fixed.grid.points()[40:-40, 40:-40]
        return float((back(there(points)) - points).norm(dim=-1).mean())

    assert both(True) < 0.5 * both(False)


def test_symmetric_recovers_and_does_not_fold() -> None:
    fixed = slice_of("t1")
    known = Composite([known_rigid(fixed, 4.0, 2.0), known_bend(fixed.grid)])
    plan = schedule_for("diffeomorphic", fixed.grid, "lncc:window=7", symmetric=True)
    found = register(fixed, moved(fixed, known, 12), schedule=plan)
    assert error(found, known, fixed) < 0.4
    with torch.no_grad():
        assert float(found.transform.jacobian_determinant(fixed.grid).min()) > 0


def test_symmetric_needs_a_velocity() -> None:
    with pytest.raises(SettingsError, match="diffeomorphic"):
        schedule_for("deformable", slice_of("t1").grid, symmetric=True)


# --- what is compared -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(name for name, metric in REGISTRY.items() if metric.pointwise))
def test_pointwise_metrics_do_not_care_where_voxels_lie(name: str) -> None:
    fixed, moving = slice_of("t1").batch, slice_of("t2").batch
    order = torch.randperm(fixed.numel(), generator=torch.Generator().manual_seed(0))
    mixed = [image.flatten()[order].reshape(1, 1, 1, -1) for image in (fixed, moving)]
    assert float(load_metric(name)(*mixed)) == pytest.approx(float(load_metric(name)(fixed, moving)), rel=1e-4)


def test_sampling_finds_what_all_voxels_find() -> None:
    fixed = brain_at("t1", 3.0)
    known = known_rigid(fixed, 6.0, 5.0)
    moving = moved(brain_at("t2", 3.0), known)
    plan = schedule_for("rigid", fixed.grid, "nmi")
    stages = [stage.model_copy(update={"samples": None}) for stage in plan.stages]
    whole = register(fixed, moving, schedule=plan.model_copy(update={"stages": tuple(stages)}))
    few = register(fixed, moving, schedule=plan)
    assert few.levels[-1].voxels < whole.levels[-1].voxels
    assert error(few, known, fixed) < error(whole, known, fixed) + 0.15


def test_samples_come_from_the_mask_and_are_the_same_again() -> None:
    image = slice_of("t1")
    mask = torch.zeros_like(image.data)
    mask[:, 60:90, 30:70] = 1
    masked = replace(image, mask=mask)
    levels = [Level(masked, image, load_metric("mse"), samples=500) for _ in range(2)]
    index = image.grid.physical_to_index(levels[0].points)[0]
    assert levels[0].compared == 500
    assert bool(
        (index[:, 0] > 29).all() & (index[:, 0] < 71).all() & (index[:, 1] > 59).all() & (index[:, 1] < 91).all()
    )
    assert torch.equal(levels[0].points, levels[1].points)


def test_the_best_of_the_search_is_kept_when_the_cost_cannot_fall() -> None:
    place = torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    outcome, rows = Outcome(), []
    lower(
        lambda: ((place**2).sum() + place.detach().abs().sum(), 0.0),
        [(place, 0.5)],
        30,
        lambda *row: rows.append(row),
        outcome,
    )
    assert abs(float(place.detach())) < 0.2
    assert min(outcome.costs) == pytest.approx(float(place.detach() ** 2 + place.detach().abs()))
    assert [row[1] for row in rows] == outcome.costs


def test_every_spacing_is_made_once() -> None:
    images = Pyramid(brain_at("t1"), brain_at("t2"))
    assert images.at(8.0)[0] is images.at(8.0)[0]
    assert images.at(8.0, 0.5)[1] is not images.at(8.0)[1]


# --- preparing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [4.5, 7.0, 12.0])
def test_coarser_smooths_and_interpolates(spacing: float) -> None:
    image = brain_at("t1")
    target = coarse_grid(image.grid, spacing)
    factor = np.asarray(target.spacing) / np.asarray(image.grid.spacing)
    sigma = tuple((0.5 * np.sqrt(np.maximum(factor**2 - 1, 0))).tolist())
    expected = warp(smoothed(image, sigma), None, target)
    found = coarser(image, spacing)
    assert found.grid == expected.grid
    assert torch.allclose(found.data, expected.data, atol=1e-4 * float(expected.data.max()))


def test_moments_are_those_of_the_points() -> None:
    image = replace(brain_at("t1"), mask=(brain_at("t1").data > 0.2).float())
    weights = (image.data - image.data.min())[0].double() * image.mask[0].double()
    points = image.grid.points(torch.float64).reshape(-1, 3)
    share = weights.flatten()[:, None] / weights.sum()
    centre = (points * share).sum(dim=0)
    assert torch.allclose(centre_of_mass(image), centre, atol=1e-6)
    spread = ((points - centre) * share).T @ (points - centre)
    _, axes = principal_axes(image)
    inner = axes.T @ spread @ axes
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-6 * float(spread.abs().max()))


def test_a_scale_free_stop() -> None:
    """The same path whatever the unit of the cost."""
    ends = []
    for unit in (1e-6, 1.0, 1e6):
        place = torch.nn.Parameter(torch.tensor([5.0, -3.0], dtype=torch.float64))
        weights = torch.tensor([1.0, 30.0], dtype=torch.float64)
        outcome = Outcome()
        lower(
            lambda p=place, u=unit, w=weights: (u * (w * p**4).sum(), 0.0),
            [(place, 1.0)],
            40,
            lambda *row: None,
            outcome,
        )
        ends.append((len(outcome.costs), place.detach().tolist()))
    assert ends[0][0] == ends[1][0] == ends[2][0]
    assert ends[0][1] == pytest.approx(ends[2][1], rel=1e-6)


def test_a_gradient_that_is_not_finite_stops_the_search() -> None:
    place, outcome = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64)), Outcome()

    def cost() -> tuple[torch.Tensor, float]:
        return (place - place.detach()).abs().sqrt().sum(), 0.0  # 0, with an infinite slope

    lower(cost, [(place, 1.0)], 5, lambda *row: None, outcome)
    assert "gradient" in outcome.problem


def test_plans_that_would_be_ignored_in_part_are_refused() -> None:
    level = {"spacing": 1, "steps": 1, "step": 1}
    linear = {"transform": "rigid", "metric": "nmi", "levels": [level]}
    with pytest.raises(RegsimError, match="penalties smooth deformations"):
        Stage.checked({**linear, "penalties": {"diffusion": 1}})
    with pytest.raises(RegsimError, match="search"):
        Schedule.checked({"stages": [linear], "flips": True})


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(RegsimError, match="samples"):
        schedule_for("rigid", slice_of("t1").grid).stages[0].checked(
            {"transform": "rigid", "metric": "nmi", "levels": [{"spacing": 1, "steps": 1, "step": 1}], "samples": 3}
        )
