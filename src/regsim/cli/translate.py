"""`regsim translate`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.options import Device, Json, Spacing, Threads, prepare_machine, progress, write_json
from regsim.cli.tables import say, show_translation


def translate(
    source: Annotated[Path, typer.Argument(help="The image to translate.")],
    like: Annotated[
        Path, typer.Option("--like", help="An image of the wanted contrast (T1), roughly aligned: of the same person.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="imse; a model of imse; a generator that `regsim train cyclegan` or reggan wrote; or histogram.",
        ),
    ] = "imse:mirrored=every",
    transform: Annotated[
        Path | None, typer.Option("--transform", help="Source points to points of --like, from a registration.")
    ] = None,
    truth: Annotated[Path | None, typer.Option("--truth", help="The right answer, on SOURCE's grid.")] = None,
    source_mask: Annotated[Path | None, typer.Option("--source-mask", help="Where SOURCE counts.")] = None,
    like_mask: Annotated[Path | None, typer.Option("--like-mask", help="Where --like counts.")] = None,
    spacing: Spacing = None,
    threads: Threads = 0,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Translate an image to the contrast of another one, which may be misaligned; compare with the truth if given."""
    ready = prepare_machine(device, threads, json)
    from regsim.applications.translate import TranslateRequest, translate_file

    files = {"source": source, "like": like, "output": output, "transform": transform, "truth": truth}
    options = {
        "source_mask": source_mask,
        "like_mask": like_mask,
        "method": method,
        "spacing": spacing,
        "device": ready,
    }
    with progress("translating"):
        rows = translate_file(TranslateRequest.checked({**files, **options}))
    if json != "-":
        say(f"written: {output}")
        show_translation(rows)
    write_json(json, '{"rows": [' + ", ".join(row.model_dump_json() for row in rows) + "]}")
