"""`regsim models`."""

from typing import Annotated

import typer

from regsim.cli.options import Json, write_json
from regsim.cli.tables import show_card, show_models


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model's card: its name, or its folder.")] = None,
    json: Json = None,
) -> None:
    """List the trained models that come with regsim, or show one's card."""
    from regsim.metrics.checkpoint import read_card
    from regsim.metrics.zoo import bundled_models, model_folder

    cards = [read_card(model_folder(model)) for model in ([name] if name is not None else bundled_models())]
    if json != "-" and name is not None:
        show_card(cards[0])
    elif json != "-":
        show_models(cards)
    write_json(json, '{"models": [' + ",\n ".join(card.model_dump_json() for card in cards) + "]}")
