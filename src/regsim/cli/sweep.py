"""`regsim sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

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
    prepare_machine,
    progress,
    stepper,
    write_json,
)
from regsim.cli.tables import say, show_report
from regsim.errors import SettingsError

if TYPE_CHECKING:
    from regsim.evaluation.sweep_rows import SweepResults


def sweep(
    fixed: Annotated[Path, typer.Argument(help="Fixed image: file or DICOM folder.")],
    moving: Annotated[Path, typer.Argument(help="Moving image, on any grid.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    weights: Annotated[
        str, typer.Option("--weights", help="Regularisation weights, separated by commas.")
    ] = ".25,.5,1,2,4",
    transform: Annotated[str, typer.Option("--transform", help="deformable or diffeomorphic.")] = "deformable",
    metric: Annotated[
        str | None, typer.Option("-m", "--metric", help="Drives the deformation. Default: two-scale mind.")
    ] = None,
    linear_metric: Annotated[
        str | None, typer.Option("--linear-metric", help="Drives the rigid and affine stages. Default: nmi.")
    ] = None,
    fixed_labels: Annotated[Path | None, typer.Option("--fixed-labels", help="Label map of the fixed image.")] = None,
    moving_labels: Annotated[Path | None, typer.Option("--moving-labels", help="Label map of the moving one.")] = None,
    fixed_landmarks: Annotated[
        Path | None, typer.Option("--fixed-landmarks", help="CSV with columns x, y(, z), LPS mm (px for pictures).")
    ] = None,
    moving_landmarks: Annotated[
        Path | None, typer.Option("--moving-landmarks", help="The same points in the moving image.")
    ] = None,
    initial: Annotated[Path | None, typer.Option("--initial", help="Transform to start from.")] = None,
    start: Annotated[str, typer.Option("--start", help="auto, identity, centres, mass, moments or search.")] = "auto",
    finest: Annotated[float | None, typer.Option("--finest", min=1e-6, help="Spacing of the last level.")] = None,
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    fixed_exclude: FixedExclude = None,
    moving_exclude: MovingExclude = None,
    symmetric: Symmetric = False,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Try regularisation weights on a pair, and recommend one; resumable."""
    ready = prepare_machine(device, threads, json)
    values = _weights(weights)
    from regsim.applications.sweep import SweepRequest
    from regsim.applications.sweep import sweep as run

    pair: dict[str, object] = {
        "fixed": fixed,
        "moving": moving,
        "fixed_mask": fixed_mask,
        "moving_mask": moving_mask,
        "fixed_exclude": fixed_exclude,
        "moving_exclude": moving_exclude,
        "symmetric": symmetric,
        "initial": initial,
        "transform": transform,
        "metric": metric,
        "linear_metric": linear_metric,
        "start": start,
        "finest": finest,
        "spacing": spacing,
        "seed": seed,
        "device": ready,
    }
    asked: dict[str, object] = {
        "pair": pair,
        "output": output,
        "weights": values,
        "fixed_labels": fixed_labels,
        "moving_labels": moving_labels,
        "fixed_landmarks": fixed_landmarks,
        "moving_landmarks": moving_landmarks,
    }
    with progress("registering") as bar:
        results = run(SweepRequest.checked(asked), lambda steps: stepper(bar, steps))
    if json != "-":
        _show(results)
        show_report(output / "report.html")
    write_json(json, results.model_dump_json(indent=1))


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"weights: expected numbers separated by commas, such as .5,1,2, got '{text}'") from None


def _show(results: "SweepResults") -> None:
    """One line a weight; the page has the other metrics."""
    first = results.rows[0]
    judge = [] if first.judge is None else [first.judge.metric]
    table = Table("weight", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = [results.metric, *judge, "folded %", "min J", "sd log J"]
    names += ["Dice"] if first.dice is not None else []
    names += ["points"] if first.landmarks is not None else []
    for name in (*names, "inverse", "s"):
        table.add_column(name, justify="right")
    for row in results.rows:
        cells = [f"{row.metric(name).after:.3g}" for name in (results.metric, *judge)]
        cells += [f"{100 * row.folded:.3f}", f"{row.smallest:.2f}", f"{row.spread:.3f}"]
        cells += [f"{row.dice:.4f}"] if row.dice is not None else []
        cells += [f"{row.landmarks:.3g}"] if row.landmarks is not None else []
        mark = " *" if row.weight == results.recommended else ""
        table.add_row(f"{row.weight:g}{mark}", *cells, f"{row.inverse:.2g}", f"{row.seconds:.1f}")
    Console().print(table)
    driven = f"{results.metric} drove" + (f", {judge[0]} judges" if judge else "")
    lengths = (
        f"landmarks (points) and inverse in {results.unit}"
        if first.landmarks is not None
        else f"inverse in {results.unit}"
    )
    say(f"{driven}; {lengths}; linear stages {results.linear_seconds:.1f} s, once for all weights")
    say(f"recommended: --regularisation {results.recommended:g} ({results.rule})")
