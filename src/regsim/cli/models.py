"""`regsim models`."""

from typing import Annotated

import typer

from regsim.cli.options import Json, write_json
from regsim.cli.tables import say
from regsim.errors import SettingsError


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model's card.")] = None,
    json: Json = None,
) -> None:
    """List the trained models that come with regsim."""
    from regsim.metrics.zoo import bundled_models

    known = bundled_models()
    if name is not None and name not in known:
        listed = ", ".join(known) or "none yet; classical metrics (regsim score) need no model"
        raise SettingsError(f"unknown model '{name}'. Known: {listed}")
    if json != "-" and not known:
        say("No trained models are bundled yet. Classical metrics (regsim score) need none.")
    for model in known if json != "-" else ():
        say(model)
    write_json(json, '{"models": [' + ", ".join(f'"{model}"' for model in known) + "]}")
