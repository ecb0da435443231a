"""`regsim warp`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.options import Spacing


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
    spacing: Spacing = None,
) -> None:
    """Carry an image or a label map through a transform onto the grid of another image."""
    from regsim.applications.files import WarpRequest, warp_file

    options = {"labels": labels, "interpolation": method, "inverse": inverse, "fill": fill, "spacing": spacing}
    files = {"moving": moving, "transform": transform, "like": like, "output": output}
    warp_file(WarpRequest.checked({**files, **options}))
