"""One pair registered once for each regularisation weight: linear stages once, then every weight into a folder of its own."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import field_validator

from regsim.applications.align import Request, align
from regsim.applications.files import FileRequest, file_request
from regsim.applications.kept import kept_results, model_inputs
from regsim.applications.pairs_file import OWN
from regsim.applications.recommendation import recommended
from regsim.errors import GridError, InputError, SettingsError, TransformError
from regsim.evaluation.accuracy import dice, foreground_points, landmark_errors
from regsim.evaluation.results import InputFile, Provenance, RegistrationResults
from regsim.evaluation.sweep_rows import RESULTS, TABLE, SweepResults, SweepRow, sweep_csv
from regsim.images.image import Image
from regsim.images.io import read_image
from regsim.images.landmarks import read_landmarks
from regsim.metrics.names import label_of
from regsim.output import check_folder, now, sha256, size_in_bytes, staged, versions
from regsim.prepare import foreground
from regsim.registration.driver import OnStep
from regsim.registration.schedule import Schedule, schedule_for
from regsim.report.page import PAGE_NAME
from regsim.report.sweep_page import write_sweep_page
from regsim.settings import Settings
from regsim.transforms.base import Transform
from regsim.transforms.files import read_transform
from regsim.transforms.warp import warp

GOALS = ("deformable", "diffeomorphic")
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
LINEAR = "affine"


class SweepRequest(Settings):
    """What `regsim sweep` was asked to do. `pair`: as for `regsim register`; its own regularisation counts for nothing."""

    pair: FileRequest
    output: Path
    weights: tuple[float, ...] = WEIGHTS
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_landmarks: Path | None = None
    moving_landmarks: Path | None = None

    @field_validator("weights")
    @classmethod
    def _usable(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 <= weight < math.inf for weight in value):
            raise SettingsError("weights: expected one or more numbers of at least 0")
        return tuple(sorted(set(value)))


@dataclass(frozen=True)
class Truth:
    """What is better than similarity, where the user has it: labels of both images, landmarks of both."""

    labels: tuple[Image, Image] | None
    landmarks: tuple[torch.Tensor, torch.Tensor] | None

    def dice(self, transform: Transform) -> float | None:
        """Mean over the labels of the fixed image; None without labels."""
        if self.labels is None:
            return None
        found = dice(self.labels[0], warp(self.labels[1], transform, self.labels[0]))
        return sum(found.values()) / len(found)

    def landmark_error(self, transform: Transform) -> float | None:
        """Mean distance; None without landmarks."""
        return None if self.landmarks is None else float(landmark_errors(transform, *self.landmarks).mean())


def sweep(asked: SweepRequest, plan: Callable[[int], OnStep] | None = None) -> SweepResults:
    """Register a pair once for each weight and write the folder.

    Registrations that are there already, whole and of the same inputs, settings and seed, are kept.

    Args:
        asked: the pair, the weights, what is known better.
        plan: called with the most steps that will be done; what it returns is called after every step (progress).

    Raises:
        RegsimError: any input that cannot be used (nothing was written), or a registration that had to stop.
    """
    began, started = time.perf_counter(), now()
    check_folder(asked.output)
    if asked.pair.transform not in GOALS:
        raise SettingsError(f"a sweep is for {' and '.join(GOALS)} transforms, not '{asked.pair.transform}'")
    if asked.pair.schedule is not None:
        raise SettingsError("a sweep makes its own schedules; leave out the schedule")
    request = file_request(asked.pair)
    truth = _truth(asked, request)
    todo = _requests(asked, request)
    on_step = None if plan is None else plan(sum(_steps(one) for one in todo.values()))
    linear = _registered(todo[LINEAR], asked.output / LINEAR, on_step)
    rows = []
    for weight in asked.weights:
        name = _folder(weight)
        one = _after_linear(todo[name], asked.output / LINEAR)
        rows.append(_row(weight, name, _registered(one, asked.output / name, on_step), asked.output, request, truth))
    results = _results(asked, request, truth, rows, linear, time.perf_counter() - began)
    _write(asked, results, started)
    return results


def _requests(asked: SweepRequest, request: Request) -> dict[str, Request]:
    """All registrations by their folders: the linear stages, then one for each weight."""
    pair = asked.pair

    def schedule(weight: float) -> Schedule:
        grid, linear, start = request.fixed.grid, pair.linear_metric, pair.start
        return schedule_for(
            pair.transform,
            grid,
            pair.metric,
            linear_metric=linear,
            start=start,
            regularisation=weight,
            finest=pair.finest,
            symmetric=pair.symmetric,
            flips=pair.flips,
        )

    whole = schedule(1.0)
    inputs = [*request.inputs, *model_inputs(pair)]
    shared = replace(request, command="sweep", options={"transform": pair.transform}, inputs=inputs)
    first = whole.model_copy(update={"stages": whole.stages[:-1]})
    found = {LINEAR: replace(shared, transform=LINEAR, schedule=first)}
    for weight in asked.weights:
        last = schedule(weight)
        last = last.model_copy(update={"stages": last.stages[-1:]})
        found[_folder(weight)] = replace(
            shared, schedule=last, options={"transform": pair.transform, "regularisation": weight}
        )
    return found


def _folder(weight: float) -> str:
    return f"weight_{weight:.12g}"


def _steps(request: Request) -> int:
    return 0 if request.schedule is None else request.schedule.total_steps


def _after_linear(request: Request, folder: Path) -> Request:
    """The request, started from the linear transform that was found."""
    path = folder / "transform.h5"
    inputs = [entry for entry in request.inputs if entry[0] != "initial"]
    return replace(request, initial=read_transform(path, request.fixed.ndim), inputs=[*inputs, ("initial", path)])


def _registered(request: Request, folder: Path, on_step: OnStep | None) -> RegistrationResults:
    """The results that are there, or new ones."""
    schedule = "" if request.schedule is None else request.schedule.to_json()
    found = kept_results(folder, {**request.options, "schedule": schedule}, request.seed, request.inputs)
    return found or align(request, folder, on_step)


def _truth(asked: SweepRequest, request: Request) -> Truth:
    """Read labels and landmarks: of both images or of none."""
    paths = _both("labels", asked.fixed_labels, asked.moving_labels)
    labels = None if paths is None else (_labels(paths[0], asked), _labels(paths[1], asked))
    if labels is not None and not bool((labels[0].data != 0).any()):
        raise InputError(f"labels '{asked.fixed_labels}': there is no label but 0, which is background")
    for image in labels or ():
        if image.ndim != request.fixed.ndim:
            raise GridError(f"labels '{image.name}' are {image.ndim}-D, the images are {request.fixed.ndim}-D")
    paths = _both("landmarks", asked.fixed_landmarks, asked.moving_landmarks)
    landmarks = None if paths is None else (read_landmarks(paths[0]), read_landmarks(paths[1]))
    if landmarks is not None:
        first, second = (tuple(points.shape) for points in landmarks)
        if first != second or first[1] != request.fixed.ndim:
            raise GridError(
                f"landmarks: expected as many of each, {request.fixed.ndim}-D, got {first} fixed and {second} moving "
                "(points, axes)"
            )
    return Truth(labels, landmarks)


def _both(what: str, fixed: Path | None, moving: Path | None) -> tuple[Path, Path] | None:
    if fixed is not None and moving is not None:
        return fixed, moving
    if fixed is not None or moving is not None:
        raise SettingsError(f"{what}: give those of both images, --fixed-{what} and --moving-{what}")
    return None


def _labels(path: Path, asked: SweepRequest) -> Image:
    return read_image(path, labels=True, picture_spacing=asked.pair.spacing)


def _row(
    weight: float, name: str, results: RegistrationResults, output: Path, request: Request, truth: Truth
) -> SweepRow:
    fixed = request.fixed
    transform = read_transform(output / name / "transform.h5", fixed.ndim)
    with torch.no_grad():
        determinant = transform.jacobian_determinant(fixed.grid)[foreground(fixed)].double()
    above = determinant[determinant > 0].log()
    return SweepRow(
        weight=weight,
        metrics=results.metrics,
        folded=float((determinant <= 0).double().mean()),
        smallest=float(determinant.min()),
        spread=float(above.std(correction=0)) if above.numel() else math.nan,
        inverse=_inverse_error(transform, fixed),
        dice=truth.dice(transform),
        landmarks=truth.landmark_error(transform),
        seconds=results.seconds,
        folder=name,
    )


def _inverse_error(transform: Transform, fixed: Image) -> float:
    """Mean distance between points of the foreground and where they come back to; NaN where there is no inverse."""
    points = foreground_points(fixed)
    try:
        back = transform.inverse(fixed.grid)
    except TransformError:
        return math.nan
    with torch.no_grad():
        return float(torch.linalg.vector_norm(back(transform(points)) - points, dim=-1).mean())


def _results(
    asked: SweepRequest,
    request: Request,
    truth: Truth,
    rows: Sequence[SweepRow],
    linear: RegistrationResults,
    seconds: float,
) -> SweepResults:
    weight, rule = recommended(rows)
    before = read_transform(asked.output / LINEAR / "transform.h5", request.fixed.ndim)
    stages = () if request.schedule is None else request.schedule.stages
    return SweepResults(
        title=f"{request.moving.name} aligned to {request.fixed.name}: {len(rows)} weights",
        transform=asked.pair.transform,
        metric=label_of(stages[-1].metrics[-1]),
        unit=request.fixed.grid.unit,
        fixed=linear.fixed,
        moving=linear.moving,
        rows=list(rows),
        recommended=weight,
        rule=rule,
        dice_before=truth.dice(before),
        landmarks_before=truth.landmark_error(before),
        linear_seconds=linear.seconds,
        notes=linear.notes,
        seconds=seconds,
    )


def _write(asked: SweepRequest, results: SweepResults, started: str) -> None:
    paths = {"fixed", "moving", *OWN, "schedule"}
    inputs = [(name.replace("_", " "), getattr(asked.pair, name)) for name in sorted(paths)]
    extra = ("fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks")
    inputs += [(name.replace("_", " "), getattr(asked, name)) for name in extra]
    settings = asked.pair.model_dump(mode="json", exclude={*paths, "regularisation", "seed", "device"})
    run = Provenance(
        command="sweep",
        settings={**settings, "weights": list(asked.weights)},
        seed=asked.pair.seed,
        device=asked.pair.device,
        threads=torch.get_num_threads(),
        versions=versions(),
        inputs=[
            InputFile(role=role, name=path.name, sha256=sha256(path), size=size_in_bytes(path))
            for role, path in inputs
            if path is not None
        ],
        started=started,
        seconds=results.seconds,
    )
    with staged(asked.output, (RESULTS, PAGE_NAME)) as part:
        (part / TABLE).write_text(sweep_csv(results), encoding="utf-8")
        (part / "run.json").write_text(run.model_dump_json(indent=1), encoding="utf-8")
        (part / RESULTS).write_text(results.model_dump_json(indent=1), encoding="utf-8")
        write_sweep_page(asked.output, part)
