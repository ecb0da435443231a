"""`regsim check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from regsim.cli.options import Device, Json, Seed, Spacing, Threads, prepare_machine, progress, write_json
from regsim.cli.tables import number, say, show_report
from regsim.errors import SettingsError

if TYPE_CHECKING:
    from regsim.evaluation.check_rows import CheckResults
    from regsim.evaluation.results import RegistrationResults

FAILED, UNKNOWN = 3, 4
WIDTH = 80
WORST = 3
COLOURS = {"pass": "green", "review": "yellow", "fail": "red", "cannot tell": "magenta"}


def check(
    fixed: Annotated[Path, typer.Argument(help="Fixed image: file or DICOM folder.")],
    moved: Annotated[Path, typer.Argument(help="Moving image after registration; or before it, with --transform.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    transform: Annotated[
        Path | None,
        typer.Option(
            "--transform",
            help="Fixed points to moving points: applied where MOVED is on another grid; judged for folding.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="Where the error is asked for, on the fixed grid. Default: the fixed foreground."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Regions to report, on the fixed grid (default: eighths of the mask)."),
    ] = None,
    pass_at: Annotated[
        float | None, typer.Option("--pass", help="Errors up to this pass, mm (px). Default: one working voxel, 2 mm.")
    ] = None,
    fail_at: Annotated[
        float | None, typer.Option("--fail", help="Errors above this fail, mm (px). Default: two working voxels, 4 mm.")
    ] = None,
    coverage: Annotated[float, typer.Option("--coverage", help="Of all intervals, between 0 and 1.")] = 0.9,
    driver: Annotated[
        list[str] | None,
        typer.Option(
            "--driver", help="Metric that drove the registration; found beside MOVED if regsim made it; repeat."
        ),
    ] = None,
    working: Annotated[
        float | None,
        typer.Option(
            "--working", min=1e-6, help="Side of a working voxel, mm (px): .2 for a mouse. Default: the model's."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model of registration_error: a folder.")] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Calibration of that model (default: its own).")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 for fail and 4 for cannot tell, in place of 0.")
    ] = False,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> int:
    """Is this pair aligned? Expected error with an interval, a map, and a verdict: pass, review, fail or cannot tell."""
    if pass_at is not None and fail_at is not None and pass_at >= fail_at:
        raise SettingsError(f"--pass {pass_at:g} must lie below --fail {fail_at:g}")
    ready = prepare_machine(device, threads, json)
    from regsim.applications.check_files import CheckRequest, check_files

    files = {"fixed": fixed, "moved": moved, "mask": mask, "labels": labels, "transform": transform}
    judge = {"model": model or "", "calibration": calibration, "working": working or 0.0, "driver": tuple(driver or ())}
    limits = {"pass_at": pass_at, "fail_at": fail_at, "coverage": coverage}
    asked = CheckRequest.checked({**files, **judge, **limits, "spacing": spacing, "seed": seed, "device": ready})
    with progress("checking"):
        results = check_files(asked, output)
    if json != "-":
        show_check(results)
        show_report(output / "report.html")
    write_json(json, results.to_json())
    return {"fail": FAILED, "cannot tell": UNKNOWN}.get(results.verdict, 0) if strict else 0


def show_check(results: "CheckResults") -> None:
    """The verdict with its reason, the worst regions and the other metrics, within 80 columns."""
    console = Console()
    width = min(console.width, WIDTH)
    unit, cover = results.unit, f"{100 * results.coverage:g}"
    body = Text()
    body.append(results.verdict.upper(), style=f"bold {COLOURS[results.verdict]}")
    if not results.reason.startswith("The expected error"):
        told = f"{results.expected_text} {unit} ({cover} % interval {results.interval_text} {unit})"
        body.append(f"  expected error {told}, not to be relied on")
    body.append(f"\n{results.reason}")
    console.print(Panel(body, border_style=COLOURS[results.verdict], width=width))
    table = Table("worst regions", f"expected ({unit})", "interval", "unrelated", box=None, pad_edge=False)
    for region in results.regions[:WORST]:
        table.add_row(Text(region.name), region.expected_text, region.interval_text, f"{100 * region.unrelated:.0f} %")
    if results.regions:
        console.print(table, width=width)
    scores = Table("other metrics", "value", "better", "", box=None, pad_edge=False)
    for row in results.scores:
        better = "higher" if row.higher_is_better else "lower"
        scores.add_row(row.metric, number(row.value), better, "drove the registration" if row.drove else "")
    if results.scores:
        console.print(scores, width=width)
    for note in results.notes:
        console.print(Text(f"note: {note}"), width=width)


def say_check(results: "RegistrationResults") -> None:
    """The same in one line, after a registration; or why there is none."""
    found, unit = results.check, results.unit
    if found is not None:
        cover = f"{100 * found.coverage:g} % interval {found.interval_text} {unit}"
        say(f"check: {found.verdict}, expected error {found.expected_text} {unit} ({cover}), see {found.page}")
    for note in results.notes:
        if note.startswith("Not checked"):
            say(note)
