"""The registration driver: any metric, any transform, stage by stage and level by level."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch

from regsim.errors import GridError, RegistrationError, SettingsError
from regsim.images.image import Image
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.features import FeatureMetric
from regsim.prepare import rescaled
from regsim.registration import powell
from regsim.registration.deformable_cost import DeformableCost
from regsim.registration.deformation import Deformation, chain, frozen, holds
from regsim.registration.descent import Outcome, descend
from regsim.registration.features import FeatureLevel, FeaturePyramid, GuidedLevel
from regsim.registration.initial import plain, ranked, starts, tried
from regsim.registration.level import Level
from regsim.registration.log import LevelLog, StepLog
from regsim.registration.pyramid import Pyramid
from regsim.registration.quasi_newton import lower
from regsim.registration.schedule import COARSEST_AXIS, LINEAR, Goal, Schedule, Stage, schedule_for
from regsim.registration.search import ROUGH_SAMPLES, everywhere, searched
from regsim.transforms.base import Transform
from regsim.transforms.linear import Affine, LinearTransform, Rigid, Similarity
from regsim.transforms.warp import Method, warp

KINDS: dict[str, type[LinearTransform]] = {"rigid": Rigid, "similarity": Similarity, "affine": Affine}
LINEAR_END, DEFORMABLE_END = 0.02, 0.1

OnStep = Callable[[StepLog], None]


@dataclass
class Registration:
    """What a registration found. `transform` maps fixed points to moving points."""

    fixed: Image
    moving: Image
    transform: Transform
    initial: Transform
    start: str
    schedule: Schedule
    levels: list[LevelLog] = field(default_factory=list)
    steps: list[StepLog] = field(default_factory=list)
    seconds: float = 0.0

    def warped(self, image: Image | None = None, method: Method | None = None) -> Image:
        """The moving image (or another on its grid, such as a label map) carried onto the fixed grid."""
        return warp(image or self.moving, self.transform, self.fixed, method)


def register(
    fixed: Image,
    moving: Image,
    metric: str | AbstractMetric | None = None,
    transform: Goal = "rigid",
    *,
    initial: Transform | None = None,
    schedule: Schedule | None = None,
    on_step: OnStep | None = None,
    device: str | torch.device = "cpu",
) -> Registration:
    """Find the transform that aligns the moving image with the fixed one.

    Each stage lowers `metric.cost` over its levels, coarse to fine: linear ones by L-BFGS, deformable ones by Adam. Every
    parameter is scaled to the distance by which it moves the image's points, so neither the metric's scale nor the image's
    matters. Metrics that need no neighbours drive linear stages through points drawn between the voxels.
    In deformable stages the cost is divided by the force that the metric exerts at one voxel of misplacement
    (`Level.force`); penalties then weigh the same beside every metric.

    Convention:
        Intensities are scaled to [0, 1] between their 0.1 % and 99.9 % quantiles before they are compared. Masks of the
        images limit what is compared. The transform maps fixed to moving points (ITK's resampling direction).

    Args:
        fixed: stays where it is.
        moving: is brought to it; may lie on any grid.
        metric: a name (`regsim.metrics.metric_names()`), `name:setting=value`, or a metric object. By default nmi (64 bins)
            for linear transforms and two-scale MIND for deformable ones.
        transform: "rigid", "similarity", "affine", "deformable" (rigid, affine, then control grid) or "diffeomorphic".
        initial: a known starting transform, in place of the schedule's start.
        schedule: the whole plan, in place of the default for `transform` and `metric`.
        on_step: called after every step (progress).
        device: where to compute.

    Raises:
        InputError: a constant image.
        GridError: 2-D against 3-D, pixels against mm, no overlap at the start.
        RegistrationError: the cost became NaN or the overlap was lost; it carries the step and the last good transform.

    Example:
        >>> square = torch.zeros(40, 40)
        >>> square[10:22, 12:28] = 1.0
        >>> fixed, moving = Image.of_array(square), Image.of_array(square.roll((3, 2), (0, 1)))
        >>> found = register(fixed, moving, "mse", "rigid").transform
        >>> [round(value) for value in found(torch.tensor([[20.0, 20.0]]))[0].tolist()]
        [22, 23]
    """
    _comparable(fixed, moving)
    ready = metric if isinstance(metric, AbstractMetric) else None
    name = ready.name if ready else metric if isinstance(metric, str) else None
    plan = schedule or schedule_for(transform, fixed.grid, name)
    if ready is not None and ready.name not in plan.metrics:
        raise SettingsError(f"metric '{ready.name}' was given, but no stage of the schedule is driven by it")
    return _Run(fixed, moving, plan, initial, ready, on_step, torch.device(device)).result()


def finest_level(fixed: Image, moving: Image, metric: str | None = None, transform: Goal = "deformable") -> Level:
    """The last level that `register` would work at, where nothing has moved yet: to time a metric, or to look at its cost."""
    _comparable(fixed, moving)
    still = Rigid(fixed.ndim, fixed.grid.centre)
    run = _Run(fixed, moving, schedule_for(transform, fixed.grid, metric), still, None, None, torch.device("cpu"))
    stage = run.schedule.stages[-1]
    return run._level(stage, stage.metrics[-1], stage.levels[-1].spacing, still)


def _comparable(fixed: Image, moving: Image) -> None:
    if fixed.ndim != moving.ndim:
        raise GridError(f"fixed '{fixed.name}' is {fixed.ndim}-D, moving '{moving.name}' is {moving.ndim}-D")
    if fixed.grid.unit != moving.grid.unit:
        raise GridError(
            f"'{fixed.name}' is in {fixed.grid.unit}, '{moving.name}' in {moving.grid.unit}: give the picture a spacing in mm"
        )
    if fixed.data.shape[0] != moving.data.shape[0]:
        raise GridError(f"fixed has {fixed.data.shape[0]} channels, moving {moving.data.shape[0]}")


class _Run:
    """One registration under way: the parts found so far and the log."""

    def __init__(
        self,
        fixed: Image,
        moving: Image,
        schedule: Schedule,
        initial: Transform | None,
        ready: AbstractMetric | None,
        on_step: OnStep | None,
        device: torch.device,
    ):
        self.began = time.perf_counter()
        self.original = (fixed, moving)
        self.fixed, self.moving = rescaled(fixed).to(device), rescaled(moving).to(device)
        self.images = Pyramid(self.fixed, self.moving)
        self.made: dict[str, AbstractMetric] = {}
        self.taken: dict[tuple[str, float, bool], FeaturePyramid] = {}
        self.schedule, self.ready, self.on_step, self.device = schedule, ready, on_step, device
        self.levels: list[LevelLog] = []
        self.steps: list[StepLog] = []
        self.parts: list[Transform] = []
        self.start, self.initial = self._start(initial)

    def result(self) -> Registration:
        for stage in self.schedule.stages:
            self._linear(stage) if stage.transform in LINEAR else self._deformable(stage)
        whole = chain(self.parts or [self.initial]).cpu().requires_grad_(False)
        seconds = time.perf_counter() - self.began
        fixed, moving = self.original
        first = self.initial.cpu().requires_grad_(False)
        return Registration(fixed, moving, whole, first, self.start, self.schedule, self.levels, self.steps, seconds)

    def _metric(self, name: str) -> AbstractMetric:
        """What a level's metric is called, made once."""
        if name not in self.made:
            own = self.ready if self.ready is not None and name == self.ready.name else load_metric(name)
            self.made[name] = own.to(self.device)
        return self.made[name]

    def _level(self, stage: Stage, name: str, spacing: float, start: Transform) -> Level:
        """One resolution of a stage. In linear stages metrics that need no neighbours are read at scattered points.

        A level that is coarser than its metric can judge is done at the coarsest that it can.
        """
        metric = self._metric(name)
        coarsest = metric.coarsest(self.fixed.ndim, stage.transform in LINEAR)
        spacing = min(spacing, max(coarsest, min(self.fixed.grid.spacing)))
        samples = stage.samples if stage.transform in LINEAR else None
        if isinstance(metric, FeatureMetric) and metric.before_warping:
            return self._feature_level(stage, name, metric, spacing, start)
        smoothing = self.schedule.smoothing if stage.transform in LINEAR else 0.0
        return Level(*self.images.at(spacing, smoothing), metric, samples if metric.pointwise else None, start)

    def _feature_level(self, stage: Stage, name: str, metric: FeatureMetric, spacing: float, start: Transform) -> Level:
        """Features are carried; in a deformable stage the metric's companion, if any, sees the warped image beside them."""
        linear = stage.transform in LINEAR
        companion = None if linear or stage.symmetric else metric.companion()
        fixed, moving = self._features(stage, name, metric, companion is None).at(spacing, start)
        if companion is None:
            return FeatureLevel(fixed, moving, metric.name, stage.samples if linear else None)
        images = self.images.at(spacing)
        beside = Level(warp(images[0], None, fixed.grid), images[1], companion.metric.to(self.device))
        return GuidedLevel(fixed, moving, metric.name, beside, companion.share)

    def _features(self, stage: Stage, name: str, metric: FeatureMetric, whole: bool) -> FeaturePyramid:
        """Features are taken at the finest spacing of a stage, the fixed image's once for all stages that share it."""
        key = (name, stage.finest(name), whole)
        if key not in self.taken:
            self.taken[key] = FeaturePyramid(self.fixed, self.moving, metric, key[1], whole)
        return self.taken[key]

    def _start(self, initial: Transform | None) -> tuple[str, Transform]:
        first = self.schedule.stages[0]
        name = first.metrics[0]
        level = self._level(first, name, first.levels[0].spacing, initial or Rigid(self.fixed.ndim))
        if initial is not None:
            if initial.ndim != self.fixed.ndim:
                raise GridError(f"the initial transform is {initial.ndim}-D, the images are {self.fixed.ndim}-D")
            start = copy.deepcopy(initial).to(self.device)
            with torch.no_grad():
                level.cost(level.mapping(start)().float())
            return "given", start
        if self.schedule.start == "search":
            return self._searched(first, name)
        spacing = first.levels[0].spacing
        candidates = starts(*self.images.at(spacing), self.schedule.start, 0.5 * max(self.fixed.grid.spacing))
        if first.transform in LINEAR and first.optimiser != "powell" and level.metric.differentiable:
            name, moved = tried(level, candidates, first.levels[0].step)
            self.parts = [moved]
        else:
            name = ranked(level, candidates)[0]
        return name, copy.deepcopy(candidates[name])

    def _searched(self, first: Stage, driver: str) -> tuple[str, Transform]:
        """The start "search": every turn is tried on coarse images, whatever the first level, and the best go on."""
        spacing = max(first.levels[0].spacing, float(self.fixed.grid.extent.max()) / COARSEST_AXIS)
        still = Rigid(self.fixed.ndim)
        level, metric = self._level(first, driver, spacing, still), self._metric(driver)
        if not metric.differentiable:
            raise SettingsError(f"metric '{metric.name}' has no gradient: it cannot drive the start 'search'")
        candidates = everywhere(*self.images.at(spacing), self.schedule.flips)
        images = self.images.at(spacing, self.schedule.smoothing)
        scattered = level.scattered and metric.pointwise
        rough = Level(*images, metric, ROUGH_SAMPLES) if scattered else level
        finer = self._level(first, driver, max(spacing / 2, min(self.fixed.grid.spacing)), still)
        name, moved = searched([rough, level, finer], candidates, 0.25 * spacing)
        self.parts = [moved]
        return name, copy.deepcopy(candidates[name])

    # --- linear -----------------------------------------------------------------------------------------------------

    def _linear(self, stage: Stage) -> None:
        """A linear stage continues from a linear start; after a deformation it works outside of it."""
        own, rest = self._linear_part(stage)
        self.parts = [own, *rest]
        blind = next((name for name in stage.metrics if not self._metric(name).differentiable), None)
        if stage.optimiser != "powell" and blind is not None:
            raise SettingsError(f"metric '{self._metric(blind).name}' has no gradient: use the optimiser 'powell'")
        for number, settings in enumerate(stage.levels):
            level = self._level(stage, stage.metrics[number], settings.spacing, chain([own, *rest]))
            whole = chain([own, *frozen(rest, level.grid)])
            scales = own.steps(level.grid.radius)
            with self._logged(stage, number, level) as outcome:
                if stage.optimiser == "powell":
                    powell.minimise(level, whole, scales, settings, self._recorder(stage, number), outcome)
                    continue
                groups = [(parameter, settings.step * unit) for parameter, unit in scales]
                cost, record = partial(plain, level, level.mapping(whole)), self._recorder(stage, number)
                if stage.optimiser == "adam":
                    descend(cost, groups, settings.steps, LINEAR_END, record, outcome)
                else:
                    lower(cost, groups, settings.steps, record, outcome)

    def _linear_part(self, stage: Stage) -> tuple[LinearTransform, list[Transform]]:
        before = self.parts or [self.initial]
        kind = KINDS[stage.transform]
        first = before[0]
        if len(before) == 1 and isinstance(first, LinearTransform) and stage is self.schedule.stages[0]:
            kind = self._kind_that_holds(first, kind)
        if len(before) == 1 and isinstance(first, LinearTransform):
            own = kind(self.fixed.ndim, first.centre.cpu().numpy()).set_homogeneous(first.homogeneous())
            return own.to(self.device), []
        return kind(self.fixed.ndim, self.fixed.grid.centre).to(self.device), before

    def _kind_that_holds(self, start: LinearTransform, kind: type[LinearTransform]) -> type[LinearTransform]:
        """The stage's own kind, or the next linear stage's where the start scales or shears and this kind could not."""
        following = [KINDS[stage.transform] for stage in self.schedule.stages[1:] if stage.transform in LINEAR]
        for candidate in [kind, *following]:
            if holds(candidate, start):
                return candidate
        raise SettingsError(
            "the initial transform scales, shears or mirrors, which this registration would undo: use affine"
        )

    # --- deformable -------------------------------------------------------------------------------------------------

    def _deformable(self, stage: Stage) -> None:
        before = self.parts or [self.initial]
        blind = next((name for name in stage.metrics if not self._metric(name).differentiable), None)
        if blind is not None:
            raise SettingsError(f"metric '{self._metric(blind).name}' has no gradient: it cannot drive a deformation")
        first, last = stage.levels[0], stage.levels[-1]
        deformation = Deformation(stage.transform, self.fixed.grid, first.control_spacing or 4 * first.spacing)
        deformation.control.to(self.device)
        weights = {name: weight * last.spacing for name, weight in stage.penalties.items()}
        for number, settings in enumerate(stage.levels):
            level = self._level(stage, stage.metrics[number], settings.spacing, chain(before))
            deformation.refine(settings.control_spacing or 4 * settings.spacing)
            self.parts = [*before, deformation.finished(level.grid)]
            outer = chain(frozen(before, level.grid))
            groups = [(deformation.control.coefficients, settings.step)]
            with self._logged(stage, number, level) as outcome:
                cost = DeformableCost(level, outer, deformation, weights, stage.symmetric)
                descend(cost, groups, settings.steps, DEFORMABLE_END, self._recorder(stage, number), outcome)
                self.parts = [*before, deformation.finished(level.grid)]

    # --- the log ----------------------------------------------------------------------------------------------------

    def _recorder(self, stage: Stage, number: int) -> Callable[[int, float, float], None]:
        def record(step: int, cost: float, smooth: float) -> None:
            self.steps.append(StepLog(stage.transform, number, step, cost, smooth))
            if self.on_step is not None:
                self.on_step(self.steps[-1])

        return record

    @contextmanager
    def _logged(self, stage: Stage, number: int, level: Level) -> Iterator[Outcome]:
        """Time a level and write its row; a problem becomes an error that carries the step and the last good transform."""
        began, outcome = time.perf_counter(), Outcome()
        try:
            yield outcome
        except GridError as problem:
            outcome.problem = str(problem)
        if not outcome.costs and not outcome.problem:
            outcome.problem = "no step could be done"
        if outcome.problem:
            last_good = copy.deepcopy(chain(self.parts)).cpu().requires_grad_(False)
            count = len(self.steps) + 1
            message = f"stopped at step {count} ({stage.transform}): {outcome.problem}"
            raise RegistrationError(message, count, last_good)
        self.levels.append(
            LevelLog(
                stage=stage.transform,
                level=number,
                spacing=min(level.grid.spacing),
                voxels=level.compared,
                iterations=len(outcome.costs),
                cost_first=outcome.costs[0],
                cost_last=min(outcome.costs),
                overlap=level.overlap,
                seconds=time.perf_counter() - began,
                stop=outcome.stop,
                metric=stage.metrics[number],
            )
        )
