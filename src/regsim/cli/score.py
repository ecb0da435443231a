"""`regsim score`."""

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
    write_json,
)
from regsim.cli.tables import show_scores


def score(
    fixed: Annotated[Path, typer.Argument(help="Fixed image: file or DICOM folder.")],
    moving: Annotated[Path, typer.Argument(help="Moving image, on any grid.")],
    metric: Annotated[
        list[str] | None, typer.Option("-m", "--metric", help="NAME, NAME:setting=value, or a model folder; repeat.")
    ] = None,
    transform: Annotated[Path | None, typer.Option("--transform", help="Fixed points to moving points.")] = None,
    maps: Annotated[
        list[str] | None, typer.Option("--map", metavar="NAME=FILE", help="Write a metric's map; repeat.")
    ] = None,
    fixed_mask: FixedMask = None,
    moving_mask: MovingMask = None,
    spacing: Spacing = None,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Score how well two images are aligned, by one metric or all."""
    ready = prepare_machine(device, threads, json)
    from regsim.applications.scores import ScoreRequest, score_files

    files = {"fixed": fixed, "moving": moving, "fixed_mask": fixed_mask, "moving_mask": moving_mask}
    asked = {"metrics": tuple(metric or ()), "transform": transform, "maps": tuple(maps or ()), "spacing": spacing}
    with progress("scoring"):
        rows = score_files(ScoreRequest.checked({**files, **asked, "seed": seed, "device": ready}))
    if json != "-":
        show_scores(rows)
    write_json(json, '{"rows": [' + ",\n ".join(row.model_dump_json() for row in rows) + "]}")
