"""`regsim demo`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.check import say_check
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
    from regsim.applications.align import align
    from regsim.applications.demo import demo_request
    from regsim.output import check_folder

    check_folder(output)
    with progress("reading the brain") as bar:
        request = demo_request(seed, ready)
        steps = request.schedule.total_steps if request.schedule is not None else 0
        results = align(request, output, stepper(bar, steps))
    if json != "-":
        show_registration(results)
        say_check(results)
        show_report(output / "report.html")
    write_json(json, results.model_dump_json(indent=1))
