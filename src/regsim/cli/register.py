"""`regsim register`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regsim.cli.check import say_check
from regsim.cli.options import (
    Device,
    FixedExclude,
    FixedMask,
    Json,
    MovingExclude,
    MovingMask,
    Seed,
    Spacing,
    Symmetric,
    Threads,
    errors,
    prepare_machine,
    progress,
    stepper,
    write_json,
)
from regsim.cli.tables import say, show_registration, show_report
from regsim.errors import SettingsError

if TYPE_CHECKING:
    from regsim.applications.batch import BatchRequest

INTERRUPTED = 130
SHOWN = 10


def register(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; with --pairs of all pairs.")],
    fixed: Annotated[Path | None, typer.Argument(help="Fixed image: file or DICOM folder.")] = None,
    moving: Annotated[Path | None, typer.Argument(help="Moving image, on any grid.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            help="CSV with columns fixed, moving (name, initial, fixed_mask, fixed_exclude, ...) instead of two images; "
            "resumable.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option("--workers", min=0, max=1024, help="Processes for --pairs; 0 = cores over --threads (here 1)."),
    ] = 0,
    transform: Annotated[
        str, typer.Option("--transform", help="rigid, similarity, affine, deformable or diffeomorphic.")
    ] = "rigid",
    metric: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--metric",
            help="Drives the last stage; also a model folder. Default: nmi (linear), two-scale mind (deformable).",
        ),
    ] = None,
    linear_metric: Annotated[
        str | None,
        typer.Option(
            "--linear-metric", help="Drives the rigid and affine stages before a deformable one. Default: nmi."
        ),
    ] = None,
    coarse_metric: Annotated[
        str | None,
        typer.Option(
            "--coarse-metric", help="Drives all levels but the finest of each kind, such as imse. Default: none."
        ),
    ] = None,
    initial: Annotated[Path | None, typer.Option("--initial", help="Transform to start from.")] = None,
    start: Annotated[
        str, typer.Option("--start", help="auto, identity, centres, mass, moments, or search (far off, upside down).")
    ] = "auto",
    optimiser: Annotated[
        str, typer.Option("--optimiser", help="gradient; adam or powell (linear transforms).")
    ] = "gradient",
    regularisation: Annotated[
        float, typer.Option("--regularisation", min=0.0, help="Smoothness of a deformation.")
    ] = 1.0,
    finest: Annotated[float | None, typer.Option("--finest", min=1e-6, help="Spacing of the last level.")] = None,
    schedule: Annotated[
        Path | None,
        typer.Option("--schedule", help="TOML file with the whole plan, see docs/use-your-images.md."),
    ] = None,
    flat_field: Annotated[
        bool, typer.Option("--flat-field", help="Also write one displacement field, displacement.nii.gz (intent 1007).")
    ] = False,
    learn2reg: Annotated[
        bool,
        typer.Option("--learn2reg", help="Also write learn2reg.nii.gz: the field in voxels, as Learn2Reg wants it."),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Also estimate the error that is left, as `regsim check` does.")
    ] = True,
    symmetric: Symmetric = False,
    flips: Annotated[
        bool, typer.Option("--flips", help="--start search: try mirrored images, too (affine ...).")
    ] = False,
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    fixed_exclude: FixedExclude = None,
    moving_exclude: MovingExclude = None,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> int:
    """Align a moving image with a fixed one, or many pairs; write transform, warped image, results and a report."""
    _one_or_many(fixed, moving, pairs, workers)
    ready = prepare_machine(device, threads, json)
    options = {
        "fixed_mask": fixed_mask,
        "moving_mask": moving_mask,
        "fixed_exclude": fixed_exclude,
        "moving_exclude": moving_exclude,
        "initial": initial,
        "transform": transform,
        "metric": metric,
        "linear_metric": linear_metric,
        "coarse_metric": coarse_metric,
        "start": start,
        "optimiser": optimiser,
        "regularisation": regularisation,
        "finest": finest,
        "symmetric": symmetric,
        "flips": flips,
        "schedule": schedule,
        "flat_field": flat_field,
        "learn2reg": learn2reg,
        "check": check,
        "spacing": spacing,
        "seed": seed,
        "device": ready,
    }
    if pairs is not None:
        from regsim.applications.batch import BatchRequest

        return _batch(BatchRequest(pairs, output, options, workers, threads), json)
    return _single({**options, "fixed": fixed, "moving": moving}, output, json)


def _one_or_many(fixed: Path | None, moving: Path | None, pairs: Path | None, workers: int) -> None:
    if pairs is not None and fixed is not None:
        raise SettingsError("give either FIXED and MOVING, or --pairs FILE, not both")
    if pairs is None and (fixed is None or moving is None):
        raise SettingsError(
            f"{'FIXED' if fixed is None else 'MOVING'} is missing: give FIXED and MOVING, or --pairs FILE"
        )
    if pairs is None and workers:
        raise SettingsError("--workers is for --pairs; one pair is registered in one process, see --threads")


def _single(asked: dict[str, object], output: Path, json: str | None) -> int:
    from regsim.applications.align import align
    from regsim.applications.files import FileRequest, file_request
    from regsim.output import check_folder

    check_folder(output)
    request = file_request(FileRequest.checked(asked))
    with progress("registering") as bar:
        steps = request.schedule.total_steps if request.schedule is not None else 0
        results = align(request, output, stepper(bar, steps))
    if json != "-":
        show_registration(results)
        say_check(results)
        show_report(output / "report.html")
    write_json(json, results.model_dump_json(indent=1))
    return 0


def _batch(request: "BatchRequest", json: str | None) -> int:
    """All pairs; 1 where one of them failed."""
    from regsim.applications.batch import finished_pairs, register_pairs

    try:
        with progress("pairs") as bar:
            task = bar.task_ids[0]
            results = register_pairs(request, lambda done, total: bar.update(task, completed=done, total=total))
    except KeyboardInterrupt:
        done, total = finished_pairs(request)
        errors.print(f"{done} of {total} pairs have results; the same command goes on from there", soft_wrap=True)
        return INTERRUPTED
    failed = results.failed()
    if json != "-":
        for row in failed[:SHOWN]:
            say(f"failed: {row.name}: {row.reason}")
        if len(failed) > SHOWN:
            say(f"failed: {len(failed) - SHOWN} more, see {request.output / 'pairs.csv'}")
        done = len(results.pairs) - len(failed)
        say(f"{done} of {len(results.pairs)} pairs registered ({results.kept} kept), {results.seconds:.1f} s")
        show_report(request.output / "report.html")
    write_json(json, results.model_dump_json(indent=1))
    return 1 if failed else 0
