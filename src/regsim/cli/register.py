"""`regsim register`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.options import (
    Device,
    FixedMask,
    Json,
    MovingMask,
    Seed,
    Spacing,
    Threads,
    prepare_machine,
    progress,
    stepper,
    write_json,
)
from regsim.cli.tables import show_registration, show_report


def register(
    fixed: Annotated[Path, typer.Argument(help="Fixed image: file or DICOM folder.")],
    moving: Annotated[Path, typer.Argument(help="Moving image, on any grid.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
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
    initial: Annotated[Path | None, typer.Option("--initial", help="Transform to start from.")] = None,
    start: Annotated[str, typer.Option("--start", help="auto, identity, centres, mass or moments.")] = "auto",
    optimiser: Annotated[
        str, typer.Option("--optimiser", help="gradient, or powell (linear transforms).")
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
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Align a moving image with a fixed one; write transform, warped image, results and a report."""
    ready = prepare_machine(device, threads, json)
    from regsim.applications.align import align
    from regsim.applications.files import FileRequest, file_request
    from regsim.output import check_folder

    check_folder(output)
    request = file_request(
        FileRequest.checked(
            {
                "fixed": fixed,
                "moving": moving,
                "fixed_mask": fixed_mask,
                "moving_mask": moving_mask,
                "initial": initial,
                "transform": transform,
                "metric": metric,
                "linear_metric": linear_metric,
                "start": start,
                "optimiser": optimiser,
                "regularisation": regularisation,
                "finest": finest,
                "schedule": schedule,
                "flat_field": flat_field,
                "learn2reg": learn2reg,
                "spacing": spacing,
                "seed": seed,
                "device": ready,
            }
        )
    )
    with progress("registering") as bar:
        steps = request.schedule.total_steps if request.schedule is not None else 0
        results = align(request, output, stepper(bar, steps))
    if json != "-":
        show_registration(results)
        show_report(output / "report.html")
    write_json(json, results.model_dump_json(indent=1))
