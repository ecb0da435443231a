"""The parts of `benchmarks.imse` that need no data sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.accuracy import random_rigid
from benchmarks.imse import COLUMNS, KEY, kind_of, plan_for, tables, translates
from benchmarks.imse_arms import ARMS, RECIPE
from benchmarks.imse_data import cut_off, moved_away, random_bend
from benchmarks.imse_page import PAGE, Measured, written
from benchmarks.rows import Table
from regsim.errors import InputError
from regsim.evaluation.accuracy import true_errors
from regsim.evaluation.surface import minima
from regsim.images.examples import brain
from regsim.prepare import coarser
from regsim.training.recipe import load_recipe
from regsim.transforms import Rigid


def test_minima_are_counted_between_ridges() -> None:
    assert minima(np.array([3.0, 1.0, 3.0])) == 1
    assert minima(np.array([3.0, 2.0, 1.0, 2.0, 1.5, 3.0])) == 2
    assert minima(np.array([3.0, 1.0, 2.0, 1.98, 3.0])) == 1  # a ripple below the threshold
    assert minima(np.array([1.0, 2.0, 3.0])) == 1  # at an end, too
    assert minima(np.array([3.0, 2.0, 1.0])) == 1


@pytest.mark.parametrize("condition", ["easy", "bias", "noise", "lesions"])
def test_the_known_transform_brings_the_image_back(condition: str) -> None:
    fixed, aligned = (coarser(brain(contrast), 6.0) for contrast in ("t1", "t2"))
    known = random_rigid(fixed.grid.centre, 3, 20.0, 20.0)
    case = moved_away(fixed, aligned, known, 4, condition)
    assert float(true_errors(case.known, known, case.points).max()) == 0
    before = true_errors(Rigid(3, fixed.grid.centre), known, case.points)
    assert 1 < float(before.mean()) < 40
    assert 0 <= float(case.moving.data.min()) <= float(case.moving.data.max()) <= 1


def test_a_bend_has_the_error_that_was_asked_for() -> None:
    grid = coarser(brain("t1"), 4.0).grid
    bend = random_bend(grid, 1, 30.0, 4.0)
    points = grid.points().reshape(-1, 3)
    with torch.no_grad():
        assert float((bend(points) - points).norm(dim=-1).mean()) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_part_of_an_image_keeps_its_place(share: float) -> None:
    image = coarser(brain("t1"), 4.0)
    part = cut_off(image, share)
    assert part.grid.shape[0] < 1.2 * share * image.grid.shape[0]
    point = part.grid.points()[2, 3, 4]
    index = image.grid.physical_to_index(point[None].double())[0].round().long()
    assert float(image.data[(0, *index.flip(0).tolist())]) == float(part.data[0, 2, 3, 4])


def test_points_of_a_partial_view_lie_within_it() -> None:
    fixed, aligned = (coarser(brain(contrast), 6.0) for contrast in ("t1", "t2"))
    known = random_rigid(fixed.grid.centre, 3, 20.0, 20.0)
    case = moved_away(fixed, aligned, known, 4, "slab")
    whole = moved_away(fixed, aligned, known, 4, "easy")
    assert 50 < len(case.points) < 0.6 * len(whole.points)
    with torch.no_grad():
        index = case.moving.grid.physical_to_index(known(case.points).double())[..., -1]
    assert float(index.min()) >= -1e-6
    assert float(index.max()) <= case.moving.grid.shape[0] - 1 + 1e-6


def test_hybrids_and_the_papers_plan() -> None:
    image = coarser(brain("t1"), 2.0)
    assert plan_for("mi+mind", "rigid", image).metrics == ("mi", "mind")
    plan = plan_for("paper:mi", "deformable", image)
    assert [(level.steps, level.spacing) for level in plan.stages[0].levels] == [(200, min(image.grid.spacing))]
    assert not translates("mi+mind")
    assert not translates("mind")
    assert translates("imse")


def test_tables_sum_up(tmp_path: Path) -> None:
    table = Table(tmp_path / "imse.csv", COLUMNS, KEY)
    for number, after in enumerate((0.5, 0.7, 9.0)):
        table.add({"set": "rigid", "case": f"easy {number}", "metric": "x", "before": 20.0, "after": after})
    screen = Console(record=True, width=120)
    tables(tmp_path, screen)
    text = screen.export_text()
    assert "67" in text
    assert "0.7" in text
    assert kind_of({"set": "response", "case": "2-D t2 a turn"}) == "2-D t2 turn"


@pytest.mark.parametrize("kind", ARMS)
def test_every_arm_is_a_recipe(kind: str) -> None:
    for changes in ARMS[kind].values():
        load_recipe(RECIPE, changes)


def test_the_tables_of_the_page_are_those_of_the_rows() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, Measured()) == page
    with pytest.raises(InputError, match="no markers"):
        written("nothing", Measured())
