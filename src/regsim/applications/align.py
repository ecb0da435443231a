"""From two images to a results folder: register, measure before and after, write everything in one piece each."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

import torch

from regsim.errors import GridError, RegistrationError
from regsim.evaluation.accuracy import jacobian_row, rigid_parameters, truth_row
from regsim.evaluation.results import (
    CHECK_FOLDER,
    ImageFacts,
    InputFile,
    LevelRow,
    MetricChange,
    Provenance,
    RegistrationResults,
    StepRow,
    TruthRow,
)
from regsim.evaluation.scoring import score
from regsim.evaluation.views import make_views
from regsim.images.formats import PICTURES, ending
from regsim.images.image import Image
from regsim.images.io import eight_bit, write_image
from regsim.metrics import REGISTRY, AbstractMetric, usable_metrics
from regsim.metrics.names import is_model, label_of
from regsim.output import (
    PART,
    check_folder,
    make_folder,
    now,
    peak_memory_mb,
    remove_folder,
    sha256,
    size_in_bytes,
    staged,
    versions,
    write_text,
)
from regsim.registration import Registration, Schedule, register
from regsim.registration.driver import OnStep
from regsim.registration.schedule import Goal
from regsim.report import write_registration_page
from regsim.transforms.base import Transform
from regsim.transforms.dense import Composite
from regsim.transforms.files import write_transform
from regsim.transforms.learn2reg import write_learn2reg
from regsim.transforms.linear import LinearTransform, Rigid

LAST_GOOD = "last_good_transform.h5"
CHECKED = "registration_error"
STALE = (LAST_GOOD, "displacement.nii.gz", "learn2reg.nii.gz", "warped.*", "views.npz", "run.json", "transform.h5")


@dataclass(frozen=True)
class Request:
    """What is to be aligned, how, and what to write down about it."""

    fixed: Image
    moving: Image
    transform: str
    metric: str | AbstractMetric | None = None
    schedule: Schedule | None = None
    initial: Transform | None = None
    known: Transform | None = None
    inputs: Sequence[tuple[str, Path]] = ()
    command: str = "register"
    options: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    warped_ending: str = ".nii.gz"
    flat_field: bool = False
    learn2reg: bool = False
    check: bool = False
    notes: Sequence[str] = ()


def align(request: Request, folder: Path, on_step: OnStep | None = None) -> RegistrationResults:
    """Register and fill a results folder.

    Writes `transform.h5` (fixed points to moving points), `warped.*` on the fixed grid, `results.json`, `run.json`,
    `views.npz` and `report.html`; each appears under its name only when it is whole. With `check`, also the folder `check`, or a
    note why there is none. Where the driver has to stop, the last good transform is saved as `last_good_transform.h5` and
    nothing else is touched.

    Raises:
        RegsimError: bad input, or a registration that had to stop.
    """
    check_folder(folder)
    began, started = time.perf_counter(), now()
    torch.manual_seed(request.seed)
    fixed, moving = request.fixed, request.moving
    try:
        found = register(
            fixed,
            moving,
            request.metric,
            _goal(request.transform),
            initial=request.initial,
            schedule=request.schedule,
            on_step=on_step,
            device=request.device,
        )
    except RegistrationError as problem:
        if isinstance(problem.last_good, Transform):
            kept = make_folder(folder) / LAST_GOOD
            write_transform(problem.last_good, kept)
            raise RegistrationError(
                f"{problem}; the last good transform is '{kept}'", problem.step, problem.last_good
            ) from None
        raise
    memory = peak_memory_mb()
    before, notes = _before(request, found)
    results = describe(request, found, before, notes, memory)
    provenance = Provenance(
        command=request.command,
        settings={**request.options, "schedule": found.schedule.to_json(), "start": found.start},
        seed=request.seed,
        device=request.device,
        threads=torch.get_num_threads(),
        versions=versions(),
        inputs=[
            InputFile(role=role, name=path.name, sha256=sha256(path), size=size_in_bytes(path))
            for role, path in request.inputs
        ],
        started=started,
        seconds=time.perf_counter() - began,
    )
    with _check(request, found, results, provenance, folder):
        write_folder(request, found, before, results, provenance, folder)
    return results


@contextmanager
def _check(
    request: Request, found: Registration, results: RegistrationResults, run: Provenance, folder: Path
) -> Iterator[None]:
    """Check beside the work of the block, or note why there is none; an earlier check goes when the block has ended well."""
    old, new = folder / CHECK_FOLDER, folder / f"{PART}{CHECK_FOLDER}"
    if not (request.check or old.is_dir()):
        yield
        return
    from regsim.applications.check_files import remove_check  # its model is loaded where there is a check to make
    from regsim.applications.check_registration import check_registration

    try:
        if request.check:
            make_folder(folder)
            results.check, reason = check_registration(found, run, new)
            results.notes.extend(reason)
        yield
        remove_check(old)
        if new.is_dir():
            shutil.copytree(new, old, dirs_exist_ok=True)
    finally:
        remove_folder(new)


def _goal(transform: str) -> Goal:
    """The goal by its name; a request with a plan of its own may call it as it likes."""
    return next((goal for goal in get_args(Goal) if goal == transform), "rigid")


def describe(
    request: Request, found: Registration, before: Transform | None, notes: list[str], memory: float
) -> RegistrationResults:
    """All that is measured about a registration; `before` is what it is compared with (None: the files' own geometry)."""
    fixed, moving = request.fixed, request.moving
    nonlinear = deformable_part(found.transform)
    driving = list(found.schedule.metrics)
    return RegistrationResults(
        title=f"{moving.name} aligned to {fixed.name}",
        transform=request.transform,
        metric=label_of(found.schedule.stages[-1].metrics[-1]),
        unit=fixed.grid.unit,
        fixed=_facts(fixed),
        moving=_facts(moving),
        metrics=_changes(fixed, moving, before, found, driving),
        levels=[LevelRow(**asdict(level)) for level in found.levels],
        steps=[StepRow(**asdict(step)) for step in found.steps],
        jacobian=None if nonlinear is None else jacobian_row(found.transform, fixed),
        truth=_truth(request, found, before),
        notes=[*request.notes, *notes],
        iterations=len(found.steps),
        seconds=found.seconds,
        peak_memory_mb=memory,
        files={"transform": "transform.h5", "warped": "warped" + request.warped_ending},
    )


def write_folder(
    request: Request,
    found: Registration,
    before: Transform | None,
    results: RegistrationResults,
    provenance: Provenance,
    folder: Path,
) -> None:
    """Write the folder: all files together once they are whole, `results.json` last but for the page."""
    nonlinear = deformable_part(found.transform)
    views = make_views(found.fixed, found.moving, found.transform, before, nonlinear)
    with staged(folder, ("results.json", "report.html"), STALE) as part:
        write_transform(found.transform, part / "transform.h5")
        if request.flat_field:
            write_transform(found.transform, part / "displacement.nii.gz", found.fixed.grid)
        if request.learn2reg:
            write_learn2reg(found.transform, part / "learn2reg.nii.gz", found.fixed.grid, found.moving.grid)
        write_image(found.warped(), part / ("warped" + request.warped_ending))
        views.save(part / "views.npz")
        write_text(part / "run.json", provenance.model_dump_json(indent=1))
        write_text(part / "results.json", results.model_dump_json(indent=1))
        write_registration_page(part)


def deformable_part(transform: Transform) -> Transform | None:
    """The part of a transform that is not linear, or None."""
    if isinstance(transform, LinearTransform):
        return None
    if not isinstance(transform, Composite):
        return transform
    parts = [part for part in transform.parts() if not isinstance(part, LinearTransform)]
    return (parts[0] if len(parts) == 1 else Composite(parts)) if parts else None


def warped_ending(moving: Path, image: Image) -> str:
    """How to store the warped image: as the moving file is, NIfTI for DICOM folders."""
    kind = ending(moving) if moving.is_file() else ".nii.gz"
    if kind in PICTURES and image.ndim == 2:
        return ".png" if eight_bit(image) else ".tif"
    return {".nii": ".nii", ".mha": ".mha", ".mhd": ".mha", ".nrrd": ".nrrd", ".nhdr": ".nrrd"}.get(kind, ".nii.gz")


def _before(request: Request, found: Registration) -> tuple[Transform | None, list[str]]:
    """What "before" means: the given start, else the files' geometry, else (where that has no overlap) the driver's start."""
    if request.initial is not None:
        return request.initial, ["'Before' is the initial transform that was given."]
    try:
        score(found.fixed, found.moving, ["mse"])
    except GridError:
        return found.initial, [
            "The files' own geometry has no overlap: 'before' is the start that was chosen, by " + found.start
        ]
    return None, []


def _changes(
    fixed: Image, moving: Image, before: Transform | None, found: Registration, driving: list[str]
) -> list[MetricChange]:
    # Over all voxels, air too, an expected error says little; the check gives it over the anatomy. Features of every voxel
    # and an evaluator's predictions take seconds, and gigabytes, at 1 mm: for those who ask.
    usable = [name for name in usable_metrics() if not REGISTRY[name].costly]
    specs = [name for name in usable if name != CHECKED]
    specs += [spec for spec in dict.fromkeys(driving) if is_model(spec) or label_of(spec) not in usable]
    first, last = score(fixed, moving, specs, before), score(fixed, moving, specs, found.transform)
    drove = {label_of(spec) for spec in driving}
    return [
        MetricChange(
            metric=label_of(spec),
            before=start.value,
            after=end.value,
            higher_is_better=start.higher_is_better,
            unit=start.unit,
            drove=label_of(spec) in drove,
        )
        for spec, start, end in zip(specs, first, last, strict=True)
    ]


def _truth(request: Request, found: Registration, before: Transform | None) -> TruthRow | None:
    if request.known is None:
        return None
    start = Rigid(found.fixed.ndim) if before is None else before
    row = truth_row(found.transform, request.known, start, request.fixed)
    return row.model_copy(update={"parameters": rigid_parameters(found.transform, request.known, request.fixed)})


def _facts(image: Image) -> ImageFacts:
    return ImageFacts(
        name=image.name, size=list(image.grid.size), spacing=list(image.grid.spacing), unit=image.grid.unit
    )
