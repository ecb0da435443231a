"""`regsim warp`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.options import Device, Json, Seed, Spacing, Threads, prepare_machine, progress, write_json


def warp(
    moving: Annotated[Path, typer.Argument(help="What to carry: an image, or a label map with --labels.")],
    transform: Annotated[Path, typer.Argument(help="Fixed points to moving points: .h5, .tfm, .mat, or a field.")],
    like: Annotated[Path, typer.Option("--like", help="The fixed image: its grid is the result's.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    labels: Annotated[bool, typer.Option("--labels", help="A label map: every label is kept exactly.")] = False,
    method: Annotated[str | None, typer.Option("--interpolation", help="linear, nearest or cubic.")] = None,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="Go the other way: from the fixed to the moving image.")
    ] = False,
    fill: Annotated[float, typer.Option("--fill", help="Value outside the image.")] = 0.0,
    learn2reg: Annotated[bool, typer.Option("--learn2reg", help="TRANSFORM is a Learn2Reg voxel field.")] = False,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Carry an image or a label map through a transform onto the grid of another image."""
    ready = prepare_machine(device, threads, json)
    from regsim.applications.files import WarpRequest, warp_file
    from regsim.evaluation.results import image_facts_json

    options = {"labels": labels, "interpolation": method, "inverse": inverse, "fill": fill, "spacing": spacing}
    options |= {"learn2reg": learn2reg, "device": ready}
    files = {"moving": moving, "transform": transform, "like": like, "output": output}
    with progress("warping"):
        carried = warp_file(WarpRequest.checked({**files, **options}))
    write_json(json, image_facts_json(str(output), carried.grid.size, carried.grid.spacing, carried.grid.unit))
