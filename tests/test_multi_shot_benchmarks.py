"""The parts of `benchmarks.multi_shot` that need no data sets."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.multi_shot import (
    AFTER,
    FINE,
    NEAR_RECIPE,
    PAPER_RECIPES,
    PATCH,
    RECIPE,
    SETS,
    answer,
    changes,
    errors,
    patch_plan,
    plans,
    spacings_of,
)
from benchmarks.multi_shot_page import PAGE, figure_of, paired, rows_of, written
from benchmarks.rough_pairs import ANGLE, SHIFT, Aligned, Rough, gradient_magnitude, misalignment, moved
from regsim.evaluation.statistics import holm
from regsim.images.examples import brain
from regsim.metrics.zoo import model_folder
from regsim.prepare import coarser
from regsim.training.patch_recipe import MultiShotRecipe
from regsim.training.recipe import load_recipe
from regsim.transforms import Affine, Rigid, warp


def test_a_scan_that_is_moved_by_its_header_is_brought_back_by_the_known_transform() -> None:
    image = coarser(brain("t1"), 4.0)
    away = misalignment(image.grid.centre, 3, SHIFT, ANGLE)
    carried = warp(moved(image, away), Affine(3).set_homogeneous(away.homogeneous()), image.grid)
    inner = tuple(slice(2, -2) for _ in range(3))
    torch.testing.assert_close(carried.data[0][inner], image.data[0][inner], atol=1e-2, rtol=0)


def test_misalignments_are_signed_and_of_the_size_that_was_asked_for() -> None:
    drawn = [misalignment(np.zeros(3), seed, SHIFT, ANGLE) for seed in range(200)]
    shifts = torch.stack([each.translation.detach() for each in drawn])
    assert float(shifts.abs().min()) >= SHIFT[0]
    assert float(shifts.abs().max()) <= SHIFT[1]
    assert abs(float((shifts > 0).double().mean()) - 0.5) < 0.1
    assert float(torch.stack([each.rotation.detach() for each in drawn]).abs().max()) <= ANGLE


def test_gradient_magnitude_of_a_ramp_is_its_slope() -> None:
    image = coarser(brain("t1"), 4.0)
    ramp = image.with_data(image.grid.points()[..., 0][None] * 0.5)
    found = gradient_magnitude(ramp).data[0]
    middle = tuple(n // 2 for n in found.shape)
    assert abs(float(found[middle]) - 0.5) < 1e-3


def test_errors_between_transforms() -> None:
    points = coarser(brain("t1"), 8.0).grid.points().reshape(-1, 3)
    known, found = Rigid(3), Rigid(3)
    with torch.no_grad():
        known.translation[0] = 3.0
        found.rotation[2] = math.radians(2.0)
    row = errors(found, known, points)
    assert float(row["turn_z"]) == pytest.approx(2.0, abs=1e-3)
    assert float(row["turn_x"]) == pytest.approx(0.0, abs=1e-3)
    assert float(row["before"]) == pytest.approx(3.0, abs=1e-3)
    assert figure_of({"turn_x": 3.0, "turn_y": 4.0, "turn_z": 0.0}, "turn") == 5.0


def test_holm_and_paired_comparisons() -> None:
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([]) == []
    better = {f"p{person}_{repeat}": -1.0 - 0.1 * person - 0.01 * repeat for person in range(6) for repeat in range(3)}
    probability, people, effect = paired(better)
    assert probability < 0.001
    assert people == 6
    assert effect < -1
    few = {f"p{person}_{repeat}": -1.0 - 0.1 * person - 0.01 * repeat for person in range(2) for repeat in range(8)}
    assert paired(few)[1] == 2
    assert paired(dict.fromkeys(few, 0.0))[0] == 1.0


def test_an_answer_in_figures() -> None:
    places = np.linspace(-30, 30, 61)
    row = answer(places, np.minimum((places - 8) ** 2, 400.0))
    assert float(row["centre"]) == pytest.approx(8.0)
    assert float(row["top"]) < float(row["width"])
    assert row["minima"] == 1


@pytest.mark.parametrize("quick", [True, False])
def test_changes_of_the_recipe_fit_it(quick: bool) -> None:
    recipe = load_recipe(RECIPE, changes("t1t2", RECIPE, quick))
    assert isinstance(recipe, MultiShotRecipe)
    assert recipe.name.endswith("t1t2")


def test_the_tables_of_the_page_are_those_of_its_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, rows_of()) == page


def test_the_plan_that_goes_on_to_1_mm_is_the_recipe_and_one_more_shot() -> None:
    own, longer = (load_recipe(RECIPE, list(changes)) for changes in ((), FINE))
    assert isinstance(own, MultiShotRecipe)
    assert isinstance(longer, MultiShotRecipe)
    assert longer.shots[:-1] == own.shots
    assert longer.network.spacings == (*own.network.spacings, longer.shots[-1].spacing)


def test_after_mi_the_finest_network_goes_on_as_in_its_own_plan() -> None:
    model = str(model_folder("patch-likelihood-brain-3d"))
    still = brain("t1")
    partial = replace(still, mask=(still.data > 0.1).float())
    whole, pair = (
        Rough("one", Aligned("one", Path(), Path(), Affine(3)), still, moving, Affine(3)) for moving in (still, partial)
    )
    assert AFTER not in plans(model, whole)
    found = plans(model, pair)
    own, after = (found[name].stages[0].levels for name in (PATCH, AFTER))
    assert after[-2:] == own[-2:]
    assert {level.metric for level in after[:-2]} == {"mi"}
    assert after[-3].spacing == after[-2].spacing


@pytest.mark.parametrize("name", SETS)
def test_near_places_are_a_recipe_of_their_own(name: str) -> None:
    """It begins as the other one does; from the second shot on the places lie ever nearer."""
    far, near = (load_recipe(recipe, changes(name, recipe, quick=False)) for recipe in (RECIPE, NEAR_RECIPE))
    assert isinstance(far, MultiShotRecipe)
    assert isinstance(near, MultiShotRecipe)
    assert near.shots[0] == far.shots[0]
    assert near.network == far.network
    reaches = [shot.reach for shot in near.shots[1:]]
    assert reaches == sorted(reaches, reverse=True)
    assert all(reaches)
    assert [shot.exchange for shot in near.shots] == [False, False, *[name == "flair"] * 2]


@pytest.mark.parametrize("name", PAPER_RECIPES)
def test_the_papers_plans_are_recipes(name: str) -> None:
    recipe = load_recipe(PAPER_RECIPES[name], changes(name, PAPER_RECIPES[name], quick=False))
    assert isinstance(recipe, MultiShotRecipe)
    assert recipe.name == f"{PAPER_RECIPES[name]}-{name}"


def test_a_model_is_registered_by_at_all_its_resolutions() -> None:
    spacings = spacings_of(model_folder("patch-likelihood-brain-3d"))
    assert spacings == (4.0, 2.0)
    levels = patch_plan("patch-likelihood-brain-3d", "gradient", spacings).stages[0].levels
    assert [level.spacing for level in levels] == [4.0, 2.0, 2.0]
    assert "patches=2048" in str(levels[-1].metric)
    assert len(patch_plan("patch-likelihood-brain-3d", "powell", spacings).stages[0].levels) == 2
