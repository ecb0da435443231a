"""The plan of a registration: stages, their resolution levels, and where to start. Settings only, no work."""

from typing import Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from regsim.errors import SettingsError, unknown_name
from regsim.images.grid import Grid
from regsim.metrics.names import metric_class
from regsim.settings import Settings

Kind = Literal["rigid", "similarity", "affine", "control_grid", "velocity"]
Goal = Literal["rigid", "similarity", "affine", "deformable", "diffeomorphic"]
Start = Literal["auto", "identity", "centres", "mass", "moments", "search"]
Optimiser = Literal["gradient", "adam", "powell"]
GOALS = ("rigid", "similarity", "affine", "deformable", "diffeomorphic")
STARTS = ("auto", "identity", "centres", "mass", "moments", "search")
PENALTY_NAMES = ("diffusion", "bending", "jacobian")
LINEAR = ("rigid", "similarity", "affine")

LINEAR_METRIC = "nmi:bins=64"
DEFORMABLE_METRIC = "mind:dilations=(1, 2)"
COARSEST_AXIS = 20
LINEAR_VOXELS = 750_000
LINEAR_SAMPLES = 30_000
DEFORMABLE_VOXELS = 1_500_000
LINEAR_STEPS = ((2, 60, 0.25), (1, 60, 0.2), (0, 30, 0.1))
LATE_STEPS = ((2, 60, 0.25), (1, 60, 0.25), (0, 60, 0.25))


class Level(Settings):
    """One resolution.

    `spacing`: of the images, physical units. `steps`: about the most evaluations. `step`: how far points move in the first
    step, physical units; Adam's falls along a cosine to a tenth (deformable) or a fiftieth (linear). `control_spacing`: of
    control points. `metric`: of this level, in place of the stage's: one with a wide basin at coarse levels, one with an exact
    minimum at the finest.
    """

    spacing: float = Field(gt=0)
    steps: int = Field(ge=1)
    step: float = Field(gt=0)
    control_spacing: float | None = Field(default=None, gt=0)
    metric: str | None = None


class Stage(Settings):
    """One kind of transform, driven by one metric (a level may have its own), over a few levels.

    `penalties`: name to weight. Weights are counted in finest spacings and balanced against the metric's own force (see
    `driver`), so that one weight serves every metric. `optimiser`: "gradient" is L-BFGS for linear transforms and Adam for
    deformations. `samples`: points that a linear stage compares when its metric needs no neighbours (mse, mae, ncc, mi, nmi);
    none: every voxel. `symmetric`: a velocity is judged both ways, fixed to moving and moving to fixed.
    """

    transform: Kind
    metric: str
    levels: tuple[Level, ...] = Field(min_length=1)
    penalties: dict[str, float] = {}
    optimiser: Optimiser = "gradient"
    samples: int | None = Field(default=LINEAR_SAMPLES, ge=100)
    symmetric: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """What drives each level."""
        return tuple(level.metric or self.metric for level in self.levels)

    def finest(self, metric: str) -> float:
        """The smallest spacing at which this metric drives."""
        return min(level.spacing for level, own in zip(self.levels, self.metrics, strict=True) if own == metric)

    @field_validator("penalties")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if name not in PENALTY_NAMES:
                raise unknown_name("penalty", name, list(PENALTY_NAMES))
            if weight < 0:
                raise SettingsError(f"penalty '{name}': expected a weight of at least 0, got {weight:g}")
        return value

    @model_validator(mode="after")
    def _optimiser_fits(self) -> Self:
        if self.penalties and self.transform in LINEAR:
            raise SettingsError(f"penalties smooth deformations; a '{self.transform}' stage takes none")
        if self.symmetric and self.transform != "velocity":
            raise SettingsError(
                f"symmetric needs the inverse at every step: use velocity (diffeomorphic), not '{self.transform}'"
            )
        if self.optimiser == "powell" and self.transform not in LINEAR:
            raise SettingsError(f"optimiser powell moves linear transforms only, not '{self.transform}'; use gradient")
        return self


class Schedule(Settings):
    """The whole plan. `smoothing`: Gaussian of both images at every level of a linear stage, in voxels of the level.

    `flips`: the start "search" also tries mirrored images.
    """

    stages: tuple[Stage, ...] = Field(min_length=1)
    start: Start = "auto"
    smoothing: float = Field(default=0.5, ge=0)
    flips: bool = False

    @model_validator(mode="after")
    def _flips_fit(self) -> Self:
        if self.flips and self.start != "search":
            raise SettingsError("flips: mirrored starts need the start 'search'")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that drives, in order, once each."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.metrics))

    @property
    def total_steps(self) -> int:
        """The most steps that will be done."""
        return sum(level.steps for stage in self.stages for level in stage.levels)


def schedule_for(
    goal: Goal,
    grid: Grid,
    metric: str | None = None,
    *,
    linear_metric: str | None = None,
    coarse_metric: str | None = None,
    start: Start = "auto",
    optimiser: Optimiser = "gradient",
    regularisation: float = 1.0,
    finest: float | None = None,
    symmetric: bool = False,
    flips: bool = False,
) -> Schedule:
    """The default plan for a fixed image on this grid.

    rigid: one stage. similarity, affine: rigid at the coarsest level, then they. deformable: affine, then control points
    that end 2 voxels apart.
    diffeomorphic: the same with the control points holding a velocity.

    Args:
        goal: what kind of transform is wanted.
        grid: the fixed image's.
        metric: of the last stage; nmi with 64 bins for linear goals and two-scale MIND for deformable ones where not given.
        linear_metric: of the rigid and affine stages before a deformable one; nmi where not given.
        coarse_metric: of all levels that are coarser than their goal's finest one (see `with_coarse_metric`).
        start: where to begin.
        optimiser: of linear stages; "powell" where the metric has no gradient, "adam" where its landscape is rough.
        regularisation: factor on the smoothness of the deformation.
        finest: spacing of the last level; by default the finest that keeps the volume within a voxel budget.
        symmetric: diffeomorphic only: neither image is preferred.
        flips: the start "search" tries mirrored images, too; not for rigid and similarity transforms, which cannot hold them.
    """
    if goal not in GOALS:
        raise unknown_name("transform", goal, list(GOALS))
    if start not in STARTS:
        raise unknown_name("start", start, list(STARTS))
    if symmetric and goal != "diffeomorphic":
        raise SettingsError(f"symmetric registration needs the transform 'diffeomorphic', not '{goal}'")
    if flips and (start != "search" or goal in ("rigid", "similarity")):
        raise SettingsError("mirrored starts need the start 'search' and an affine or deformable transform")
    if goal in LINEAR:
        stages = _linear_stages(goal, grid, metric or LINEAR_METRIC, optimiser, finest)
        return with_coarse_metric(Schedule(stages=stages, start=start, flips=flips), coarse_metric)
    first = _linear_stages("affine", grid, linear_metric or LINEAR_METRIC, "gradient", None)
    kind: Kind = "control_grid" if goal == "deformable" else "velocity"
    second = _deformable_stage(kind, grid, metric or DEFORMABLE_METRIC, regularisation, finest, symmetric)
    return with_coarse_metric(Schedule(stages=(*first, second), start=start, flips=flips), coarse_metric)


def with_coarse_metric(plan: Schedule, metric: str | None) -> Schedule:
    """The plan with this metric at every level that is coarser than the finest one of all linear, or all deformable, stages.

    A metric that captures from afar brings the images near; the stages' own metrics, whose minima are exact, finish.

    Example:
        >>> from regsim.images import Grid
        >>> plan = schedule_for("rigid", Grid.of((64, 64), (1.0, 1.0)), "mind", coarse_metric="nmi")
        >>> plan.stages[0].metrics
        ('nmi', 'nmi', 'mind')
    """
    if metric is None:
        return plan

    def finest_of(linear: bool) -> float:
        spacings = [
            level.spacing for stage in plan.stages for level in stage.levels if (stage.transform in LINEAR) == linear
        ]
        return min(spacings, default=0.0)

    ends = {linear: finest_of(linear) for linear in (True, False)}
    stages = []
    for stage in plan.stages:
        end = ends[stage.transform in LINEAR]
        levels = [
            level.model_copy(update={"metric": metric}) if level.spacing > 1.01 * end else level
            for level in stage.levels
        ]
        stages.append(stage.model_copy(update={"levels": tuple(levels)}))
    return plan.model_copy(update={"stages": tuple(stages)})


def _linear_stages(
    kind: Goal, grid: Grid, metric: str, optimiser: Optimiser, finest: float | None
) -> tuple[Stage, ...]:
    """Levels that halve the spacing; the coarsest has about 20 voxels on its longest axis and is always rigid.

    A scale that is free from the start can grow until the moving image's field of view covers only what suits the metric.
    """
    known = metric_class(metric)  # none: an object of a class of the user's own
    plan = LATE_STEPS if known is not None and known.settles_late else LINEAR_STEPS
    last = _within(finest or _finest(grid, LINEAR_VOXELS), grid)
    levels: list[Level] = []
    for power, steps, share in plan:
        spacing = min(last * 2**power, _coarsest(grid))
        if not levels or spacing < 0.99 * levels[-1].spacing:
            levels.append(Level(spacing=spacing, steps=steps, step=max(share * spacing, 0.1 * last)))
    while levels[0].spacing * 2 <= _coarsest(grid):
        spacing = levels[0].spacing * 2
        levels.insert(0, Level(spacing=spacing, steps=60, step=0.25 * spacing))
    if kind == "rigid" or len(levels) == 1:
        return (_linear_stage(kind, metric, levels, optimiser),)
    return (_linear_stage("rigid", metric, levels[:1], optimiser), _linear_stage(kind, metric, levels[1:], optimiser))


def _linear_stage(kind: Goal, metric: str, levels: list[Level], optimiser: Optimiser) -> Stage:
    return Stage.checked({"transform": kind, "metric": metric, "levels": tuple(levels), "optimiser": optimiser})


def _deformable_stage(
    kind: Kind, grid: Grid, metric: str, regularisation: float, finest: float | None, symmetric: bool
) -> Stage:
    last = _within(finest or _finest(grid, DEFORMABLE_VOXELS), grid)
    coarse = min(2 * last, _coarsest(grid))
    levels = [
        Level(spacing=coarse, steps=36, step=0.7 * last, control_spacing=8 * last),
        Level(spacing=coarse, steps=36, step=0.5 * last, control_spacing=4 * last),
        Level(spacing=last, steps=24, step=0.35 * last, control_spacing=2 * last),
    ]
    if 4 * last <= _coarsest(grid):
        levels.insert(0, Level(spacing=4 * last, steps=24, step=1.4 * last, control_spacing=16 * last))
    penalties = {"diffusion": 1.0 * regularisation, "jacobian": 40.0}
    return Stage(transform=kind, metric=metric, levels=tuple(levels), penalties=penalties, symmetric=symmetric)


def _within(spacing: float, grid: Grid) -> float:
    """Neither finer than the image nor coarser than about 20 voxels on its longest axis."""
    return min(max(spacing, min(grid.spacing)), _coarsest(grid))


def _finest(grid: Grid, budget: int) -> float:
    """The own spacing, enlarged until the number of voxels is within the budget. Thick slices keep their thickness."""
    spacing = min(grid.spacing)
    while np.prod(np.ceil(grid.extent / np.maximum(grid.spacing, spacing))) > budget:
        spacing *= 2 ** (1 / 3)
    return spacing


def _coarsest(grid: Grid) -> float:
    """The spacing at which the longest axis still has about 20 voxels, but never below the own."""
    return max(float(grid.extent.max()) / COARSEST_AXIS, min(grid.spacing))
