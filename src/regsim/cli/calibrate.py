"""`regsim calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from regsim.cli.options import Device, Json, Seed, Spacing, Threads, prepare_machine, progress, write_json
from regsim.cli.tables import say

if TYPE_CHECKING:
    from regsim.applications.calibrate import Calibrated


def calibrate(
    pairs: Annotated[Path, typer.Argument(help="CSV of well aligned pairs: fixed, moving and, if any, subject.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Calibration to write (JSON).")],
    model: Annotated[str, typer.Option("--model", help="Model of registration_error; without: the bundled one.")] = "",
    draws: Annotated[int, typer.Option("--draws", min=1, max=1000, help="Known motions for each pair.")] = 8,
    registered: Annotated[
        float, typer.Option("--registered", min=0, max=1, help="Share of the motions that are registered first.")
    ] = 0.3,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Calibrate the registration error on your own aligned pairs, for `regsim check --calibration`."""
    prepare_machine(device, threads, json)
    from regsim.applications.calibrate import CalibrateRequest, calibrate_files

    asked = CalibrateRequest(pairs=pairs, model=model, draws=draws, registered=registered, spacing=spacing, seed=seed)
    with progress("calibrating") as bar:
        made = calibrate_files(asked, output, lambda name: bar.update(bar.task_ids[0], description=name))
    if json != "-":
        _show(made, output)
    write_json(json, _as_json(made))


def _show(made: "Calibrated", output: Path) -> None:
    known, unit = made.calibration, made.calibration.unit
    say(f"calibrated on {known.pairs} motions of {known.subjects} subjects: {output}")
    if known.fitted is not None:
        own = known.fitted
        say(
            f"deformed between contrasts: {own.pairs} more motions of {own.subjects} subjects, with intervals of their own"
        )
    for reason in made.left_out:
        say(f"left out: {reason}")
    if not made.coverage:
        say("fewer than three subjects: how well the intervals hold could not be tried")
        return
    table = Table("of", "wanted", "held", "worst subject", f"median width, {unit}", box=None, pad_edge=False)
    for row in made.coverage:
        worst = f"{row.worst_coverage:.0%} ({row.worst_subject})"
        table.add_row(row.level, f"{row.nominal:.0%}", f"{row.observed:.0%}", worst, f"{row.median_width:.2f}")
    Console().print(table)
    say("each subject was tried with a calibration on the others")


def _as_json(made: "Calibrated") -> str:
    import json

    return json.dumps(
        {
            "subjects": made.calibration.subjects,
            "pairs": made.calibration.pairs,
            "fitted_pairs": 0 if made.calibration.fitted is None else made.calibration.fitted.pairs,
            "figures": made.figures,
            "coverage": [row.model_dump(mode="json") for row in made.coverage],
            "left_out": made.left_out,
        }
    )
