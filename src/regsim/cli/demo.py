"""`regsim demo`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.options import Device, Json, Seed, Threads, prepare_machine, progress, stepper, write_json
from regsim.cli.tables import show_registration, show_report


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("demo"),
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Align the bundled real brain after a known misalignment, and write a report to look at."""
    ready = prepare_machine(device, threads, json)
    from regsim.applications.demo import demo_pair, demo_schedule, run_demo
    from regsim.output import check_folder

    check_folder(output)
    with progress("reading the brain") as bar:
        total = demo_schedule(demo_pair(seed)[0]).total_steps
        results = run_demo(output, seed, stepper(bar, total), ready)
    if json != "-":
        show_registration(results)
        show_report(output / "report.html")
    write_json(json, results.model_dump_json(indent=1))
