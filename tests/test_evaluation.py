"""Scores, true errors, overlap and the slices to look at."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from regsim.errors import GridError, InputError
from regsim.evaluation.accuracy import (
    best_rigid,
    dice,
    foreground_points,
    jacobian_row,
    landmark_errors,
    rigid_parameters,
    true_errors,
    truth_row,
)
from regsim.evaluation.results import Views
from regsim.evaluation.scoring import as_expected, score
from regsim.evaluation.statistics import equivalence
from regsim.evaluation.views import display_grid, make_views
from regsim.images import Grid, Image
from regsim.metrics import load_metric, usable_metrics
from regsim.transforms import Affine, DisplacementField, Rigid, warp


def blob(grid: Grid) -> Image:
    points = grid.points()
    centre = torch.as_tensor(grid.centre, dtype=torch.float32)
    distance = (points - centre).norm(dim=-1) / grid.radius
    return Image((torch.exp(-(distance**2)) * (1.5 + torch.sin(points.sum(dim=-1) / 3)))[None], grid, name="blob")


def turned(degrees: float, shift: tuple[float, ...], centre: np.ndarray) -> Rigid:
    made = Rigid(len(shift), centre)
    with torch.no_grad():
        made.rotation[-1] = math.radians(degrees)
        made.translation.copy_(torch.tensor(shift))
    return made.requires_grad_(False)


def test_score_names_all_metrics_and_is_what_the_metric_says() -> None:
    fixed = blob(Grid.of((20, 22, 24), (1.0, 1.5, 2.0)))
    moving = fixed.with_data(fixed.data.square() + 0.1)
    rows = {row.metric: row for row in score(fixed, moving)}
    assert list(rows) == usable_metrics()
    for name, row in rows.items():
        metric = load_metric(name)
        ready = metric.with_spacing(tuple(reversed(fixed.grid.spacing)))
        seen = as_expected(metric, fixed, moving)
        assert row.value == pytest.approx(float(ready(seen[0].batch, seen[1].batch)[0]), rel=1e-5)
        assert (row.higher_is_better, row.unit) == (metric.higher_is_better, metric.unit)


def test_score_carries_the_moving_image_onto_the_fixed_grid_and_counts_the_overlap_only() -> None:
    fixed = blob(Grid.of((30, 32), 1.0))
    index = (slice(None), slice(4, 28), slice(6, 30))
    part = Image(fixed.data[index], replace(fixed.grid, size=(24, 24), origin=(6.0, 4.0)), name="part")
    assert score(fixed, part, ["mse"])[0].value == pytest.approx(0.0, abs=1e-10)
    with pytest.raises(GridError, match="no overlap"):
        score(fixed, replace(part, grid=replace(part.grid, origin=(500.0, 0.0))), ["mse"])
    with pytest.raises(InputError, match="constant"):
        score(fixed, part.with_data(torch.ones_like(part.data)), ["mse"])


def test_score_obeys_masks_and_transform() -> None:
    fixed = blob(Grid.of((30, 32), 1.0))
    spoiled = fixed.data.clone()
    spoiled[:, :10] = 50.0
    mask = torch.ones_like(spoiled)
    mask[:, :10] = 0
    assert score(fixed, Image(spoiled, fixed.grid), ["mse"])[0].value > 100
    assert score(fixed, Image(spoiled, fixed.grid, mask), ["mse"])[0].value < 1e-12
    assert score(replace(fixed, mask=mask), Image(spoiled, fixed.grid), ["mse"])[0].value < 1e-12
    known = turned(20.0, (2.0, 1.0), fixed.grid.centre)
    wide = fixed.grid.padded(8)
    moved = replace(warp(fixed, known.inverse(), wide, "cubic"), mask=None)
    assert score(fixed, moved, ["ncc"], known)[0].value > 0.995 > score(fixed, moved, ["ncc"])[0].value


def test_true_errors_of_a_shift_are_its_length() -> None:
    image = blob(Grid.of((12, 12, 12)))
    known = turned(0.0, (3.0, 0.0, 4.0), image.grid.centre)
    points = foreground_points(image)
    assert true_errors(Rigid(3), known, points).tolist() == pytest.approx([5.0] * len(points))
    row = truth_row(known, known, Rigid(3), image)
    assert (row.before_mean, row.after_mean, row.rigid_error) == pytest.approx((5.0, 0.0, 0.0), abs=1e-6)


def test_best_rigid_finds_the_rigid_part_of_an_affine() -> None:
    image = blob(Grid.of((16, 18, 20)))
    rigid = turned(17.0, (3.0, -2.0, 1.0), image.grid.centre)
    points = foreground_points(image)
    assert float(true_errors(best_rigid(rigid, points), rigid, points).max()) < 1e-4
    stretched = Affine(3, image.grid.centre)
    stretched.set_matrix(rigid.matrix() * 1.2)
    found = best_rigid(stretched, points)
    assert float(found.rotation.detach()[-1]) == pytest.approx(math.radians(17.0), abs=1e-3)
    rows = {row.name: row for row in rigid_parameters(rigid, rigid, image)}
    assert rows["rotation about z"].known == pytest.approx(17.0, abs=1e-3)
    assert all(row.known == pytest.approx(row.recovered) for row in rows.values())


def test_jacobian_row_counts_folds() -> None:
    image = replace(blob(Grid.of((20, 20))), mask=torch.ones(1, 20, 20))
    field = torch.zeros(2, 20, 20)
    assert jacobian_row(DisplacementField(field, image.grid), image).folded_fraction == 0.0
    field[0, :, 10:] = -30.0
    row = jacobian_row(DisplacementField(field, image.grid), image)
    assert row.folded_fraction == pytest.approx(2 / 20)
    assert row.minimum == pytest.approx(-14.0)


def test_dice_and_landmarks() -> None:
    grid = Grid.of((2, 4))
    first = Image(torch.tensor([[[1, 1, 2, 2], [1, 1, 0, 0]]]), grid)
    second = Image(torch.tensor([[[1, 1, 0, 2], [0, 0, 0, 0]]]), grid)
    assert dice(first, second) == pytest.approx({1: 2 * 2 / (4 + 2), 2: 2 * 1 / (2 + 1)})
    assert list(dice(first, second, smallest=3)) == [1]
    with pytest.raises(GridError):
        dice(first, Image(first.data, replace(grid, origin=(1.0, 0.0))))
    points = torch.tensor([[1.0, 2.0, 3.0]])
    shift = turned(0.0, (0.0, 3.0, 4.0), np.zeros(3))
    assert landmark_errors(shift, points, points).tolist() == pytest.approx([5.0])
    with pytest.raises(GridError):
        landmark_errors(shift, points, points.repeat(2, 1))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_views_show_left_on_the_right_and_head_up_whatever_the_grid(order, signs) -> None:
    """A bright corner at left-back-head (+x, +y, +z in LPS) must appear at the labelled edges."""
    direction = np.zeros((3, 3))
    for column, axis in enumerate(order):
        direction[axis, column] = signs[column]
    size, spacing = (20, 24, 28), (1.0, 1.0, 1.0)
    rows = tuple(tuple(float(v) for v in row) for row in direction)
    grid = Grid(size, spacing, (-5.0, 3.0, 8.0), rows)
    points, centre = grid.points(), torch.as_tensor(grid.centre, dtype=torch.float32)
    data = ((points - centre) > 0).all(dim=-1).float()[None] * 2 + ((points - centre).norm(dim=-1) < 11).float()[None]
    image = Image(data, grid, name="corner")
    view = display_grid(image)
    assert np.allclose(view.direction, np.eye(3))
    views = make_views(image, image, Rigid(3).requires_grad_(False))
    for plane in views.planes:
        stack = views.stack(plane.name, "fixed")
        assert stack is not None
        assert np.array_equal(stack, views.stack(plane.name, "after"))
        bright = np.argwhere(stack == stack.max())
        middle = (np.array(stack.shape[1:]) - 1) / 2
        down, right = np.sign(bright[:, 1:].mean(axis=0) - middle)
        toward = {plane.right: right, plane.left: -right, plane.bottom: down, plane.top: -down}
        assert all(toward[edge] > 0 for edge in ("L", "P", "S") if edge in toward)


def test_views_round_trip_and_keep_pictures_as_they_are(tmp_path) -> None:
    picture = Image.of_array(torch.arange(35.0).reshape(5, 7))
    views = make_views(
        picture,
        picture,
        Rigid(2).requires_grad_(False),
        deformation=DisplacementField(torch.zeros(2, 5, 7), picture.grid),
    )
    stack = views.stack("plane", "fixed")
    assert stack is not None
    assert stack.shape == (1, 5, 7)
    assert stack[0, 0, 0] == 0
    assert stack[0, -1, -1] == 255
    drawn = views.stack("plane", "grid")
    assert drawn is not None
    assert drawn[0, :, 2, 3].tolist() == [2.0, 3.0]
    views.save(tmp_path / "views.npz")
    again = Views.load(tmp_path / "views.npz")
    assert again.planes == views.planes
    assert all(np.array_equal(again.arrays[name], array) for name, array in views.arrays.items())


def test_pixels_and_mm_are_never_compared() -> None:
    picture = Image.of_array(torch.arange(35.0).reshape(5, 7))
    with pytest.raises(GridError, match="px"):
        score(picture, replace(picture, grid=replace(picture.grid, unit="mm")), ["mse"])


def test_at_most_fifty_thousand_points() -> None:
    image = Image.of_array(torch.ones(300, 300), 1.0)
    assert foreground_points(replace(image, mask=torch.ones(1, 300, 300))).shape[0] <= 50_000


def test_equivalence_is_two_one_sided_tests() -> None:
    from scipy.stats import ttest_1samp

    generator = np.random.default_rng(3)
    first, second = generator.normal(0.5, 0.02, 9), generator.normal(0.5, 0.02, 9)
    found = equivalence(first, second, 0.015)
    gaps = first - second
    above = ttest_1samp(gaps + 0.015, 0, alternative="greater").pvalue
    below = ttest_1samp(gaps - 0.015, 0, alternative="less").pvalue
    assert found.probability == pytest.approx(max(above, below))
    assert found.interval == pytest.approx(ttest_1samp(gaps, 0).confidence_interval(0.9))
    assert equivalence(first, first, 0.01).probability == 0
    assert equivalence(first, first + 0.02, 0.01).probability == 1
    with pytest.raises(InputError, match="two or more"):
        equivalence(first[:1], second[:1], 0.01)
