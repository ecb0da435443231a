"""The default plans, and plans from files."""

import tomllib
from pathlib import Path

import pytest

from regsim.errors import SettingsError
from regsim.images import Grid
from regsim.registration import Schedule, schedule_for
from regsim.registration.schedule import LINEAR

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_plan_in_the_docs_is_valid() -> None:
    text = (DOCS / "use-your-images.md").read_text(encoding="utf-8")
    plan = Schedule.checked(tomllib.loads(text.split("```toml")[1].split("```")[0]))
    assert [stage.transform for stage in plan.stages] == ["rigid", "control_grid"]
    assert plan.total_steps == 200


@pytest.mark.parametrize("goal", ["rigid", "similarity", "affine", "deformable", "diffeomorphic"])
@pytest.mark.parametrize(
    "grid",
    [
        Grid.of((189, 233, 197)),
        Grid.of((46, 277, 227), (0.72, 0.72, 3.0)),
        Grid.of((512, 512), 0.004),
        Grid.of((12, 14)),
        Grid.of((2, 2)),
        Grid.of((5, 3, 2), (1.0, 1.0, 40.0)),
        Grid.of((4000, 6000)),
    ],
)
def test_levels_get_finer_and_fit_the_image(goal, grid) -> None:
    plan = schedule_for(goal, grid)
    linear = [level for stage in plan.stages if stage.transform in LINEAR for level in stage.levels]
    dense = [level for stage in plan.stages if stage.transform not in LINEAR for level in stage.levels]
    for spacings in ([level.spacing for level in linear], [level.spacing for level in dense]):
        assert spacings == sorted(spacings, reverse=True)
        assert not spacings or spacings[-1] >= min(grid.spacing)
    assert linear
    assert bool(dense) == (goal in ("deformable", "diffeomorphic"))
    for stage in plan.stages:
        for level in stage.levels:
            assert 0 < level.step <= 2 * level.spacing


def test_wrong_settings_name_the_nearest() -> None:
    with pytest.raises(SettingsError, match="stepps"):
        Schedule.checked(
            {"stages": [{"transform": "rigid", "metric": "ncc", "levels": [{"spacing": 1, "stepps": 2, "step": 1}]}]}
        )
    with pytest.raises(SettingsError, match="did you mean 'stages'"):
        Schedule.checked({"stagess": []})


def test_a_level_may_have_its_own_metric() -> None:
    level = {"spacing": 4, "steps": 2, "step": 1}
    plan = Schedule.checked(
        {
            "stages": [
                {
                    "transform": "rigid",
                    "metric": "mind",
                    "levels": [{**level, "metric": "nmi"}, {**level, "spacing": 2}],
                }
            ]
        }
    )
    assert plan.stages[0].metrics == plan.metrics == ("nmi", "mind")
    assert (plan.stages[0].finest("nmi"), plan.stages[0].finest("mind")) == (4, 2)


@pytest.mark.parametrize("goal", ["rigid", "affine", "deformable", "diffeomorphic"])
def test_a_coarse_metric_leaves_the_finest_levels_alone(goal) -> None:
    grid = Grid.of((120, 150, 130))
    plain, mixed = schedule_for(goal, grid), schedule_for(goal, grid, coarse_metric="mind:radius=2")
    for before, after in zip(plain.stages, mixed.stages, strict=True):
        kind = [stage for stage in plain.stages if (stage.transform in LINEAR) == (before.transform in LINEAR)]
        finest = min(level.spacing for stage in kind for level in stage.levels)
        for level, metric in zip(after.levels, after.metrics, strict=True):
            assert metric == ("mind:radius=2" if level.spacing > 1.01 * finest else before.metric)
        assert [level.spacing for level in before.levels] == [level.spacing for level in after.levels]
    assert "mind:radius=2" in mixed.metrics


def test_the_papers_plan_in_the_docs_is_valid() -> None:
    text = (DOCS / "imse.md").read_text(encoding="utf-8")
    plan = Schedule.checked(tomllib.loads(text.split("```toml")[1].split("```")[0]))
    assert (plan.metrics, plan.total_steps) == (("imse",), 200)
