"""`regsim models`."""

from typing import Annotated

import typer
from rich.console import Console

from regsim.errors import SettingsError
from regsim.metrics.zoo import bundled_models


def models(name: Annotated[str | None, typer.Argument(help="Show one model's card.")] = None) -> None:
    """List the trained models that come with regsim."""
    known = bundled_models()
    if name is not None and name not in known:
        listed = ", ".join(known) or "none yet; classical metrics need no model"
        raise SettingsError(f"unknown model '{name}'. Known: {listed}")
    console = Console()
    if not known:
        console.print("No trained models are bundled yet. Classical metrics (regsim score) need none.")
    for model in known:
        console.print(model)
