"""`regsim landscape`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.options import Device, Json, Seed, Spacing, Threads, prepare_machine, progress, write_json
from regsim.cli.tables import show_landscape, show_report


def landscape(
    fixed: Annotated[Path | None, typer.Argument(help="Fixed image: file or DICOM folder.")] = None,
    moving: Annotated[Path | None, typer.Argument(help="Moving image, aligned with it, on any grid.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("landscape"),
    metric: Annotated[
        list[str] | None,
        typer.Option("-m", "--metric", help="NAME, NAME:setting=value, or a model folder; repeat. All if none."),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="CSV with columns fixed, moving, subject; instead of two files.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Coarser and about five times faster.")] = False,
    noise: Annotated[
        float, typer.Option("--noise", min=0, max=1, help="Sigma of noise on both images (intensities in [0, 1]).")
    ] = 0.0,
    reach: Annotated[
        float | None, typer.Option("--reach", min=1e-6, help="Largest random misalignment, px or mm.")
    ] = None,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Judge metrics on an aligned pair that is misaligned by known amounts."""
    ready = prepare_machine(device, threads, json)
    from regsim.applications.landscapes import LandscapeRequest, landscape_files

    files = {"fixed": fixed, "moving": moving, "pairs": pairs, "output": output, "spacing": spacing}
    asked = {"metrics": tuple(metric or ()), "quick": quick, "noise": noise, "reach": reach}
    request = LandscapeRequest.checked({**files, **asked, "seed": seed, "device": ready})
    with progress("landscape") as bar:
        found = landscape_files(request, lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total))
    if json != "-":
        show_landscape(found.results)
        show_report(output / "report.html")
    write_json(json, found.results.model_dump_json(indent=1))
