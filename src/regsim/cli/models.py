"""`regsim models`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from regsim.cli.options import Json, write_json
from regsim.cli.tables import show_card, show_models
from regsim.errors import SettingsError


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model's card: its name, or its folder.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="DIR", help="Write its features as TorchScript, for elastix and ITK (IMPACT)."
        ),
    ] = None,
    json: Json = None,
) -> None:
    """List the trained models that come with regsim, show one's card, or export its features."""
    from regsim.metrics.checkpoint import read_card
    from regsim.metrics.zoo import bundled_models, model_folder

    if export is not None:
        _export(name, export, json)
        return
    cards = [read_card(model_folder(model)) for model in ([name] if name is not None else bundled_models())]
    if json != "-" and name is not None:
        show_card(cards[0])
    elif json != "-":
        show_models(cards)
    write_json(json, '{"models": [' + ",\n ".join(card.model_dump_json() for card in cards) + "]}")


def _export(name: str | None, folder: Path, json: str | None) -> None:
    if name is None:
        raise SettingsError("--export needs the name of a model: regsim models NAME --export DIR")
    from regsim.applications.export import export_features

    facts = export_features(name, folder)
    if json != "-":
        line = f"{folder / facts.file}, and what it is: {facts.name}.json"
        Console().print(line, soft_wrap=True, markup=False, highlight=False)
    write_json(json, facts.model_dump_json())
