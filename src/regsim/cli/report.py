"""`regsim report`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from regsim.errors import InputError


def report(folder: Annotated[Path, typer.Argument(help="A results folder of demo or register.")]) -> None:
    """Rebuild the page of a results folder from its results."""
    from regsim.report import write_registration_page

    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder of results")
    Console().print(f"report: {write_registration_page(folder)}", soft_wrap=True)
