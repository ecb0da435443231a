"""`regsim report`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.tables import show_report
from regsim.errors import InputError


def report(
    folder: Annotated[Path, typer.Argument(help="A results folder of demo, register, sweep, landscape or train.")],
) -> None:
    """Rebuild the page of a results folder from its results."""
    if not folder.is_dir():
        raise InputError(
            f"'{folder}' is not a folder of results; give the -o of demo, register, sweep, landscape or train"
        )
    from regsim.report import write_page

    show_report(write_page(folder))
