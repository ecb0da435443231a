"""`regsim demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from regsim.cli.options import Device, Json, Seed, Threads, prepare_machine, progress, stepper, write_json
from regsim.cli.tables import show_registration


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("demo"),
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Align the bundled real brain after a known misalignment, and write a report to look at."""
    ready = prepare_machine(device, threads)
    from regsim.applications.demo import demo_pair, demo_schedule, run_demo

    with progress("reading the brain") as bar:
        total = demo_schedule(demo_pair(seed)[0]).total_steps
        results = run_demo(output, seed, stepper(bar, total), ready)
    if json != "-":
        show_registration(results, Console())
        Console().print(f"report: {output / 'report.html'}", soft_wrap=True)
    write_json(json, results.model_dump_json(indent=1))
