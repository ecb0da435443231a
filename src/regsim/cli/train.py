"""`regsim train`."""

from pathlib import Path
from typing import Annotated

import typer

from regsim.cli.options import Json, Threads, prepare_machine, progress, write_json
from regsim.cli.tables import show_card


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see --list) or a TOML file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model folder to fill.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Folder or manifest; repeat. Without: the bundled brain.")
    ] = None,
    test_data: Annotated[
        list[Path] | None, typer.Option("--test-data", help="Subjects that only judge; repeat.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; repeat.")
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=0, help="Cross-validate: this many trainings.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not go on where a killed run left off.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="In place of the recipe's.")] = None,
    threads: Threads = 0,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; in place of the recipe's.")] = None,
    json: Json = None,
) -> None:
    """Train a learned metric by a recipe; the folder can be used as a metric at once."""
    from regsim.training.recipe import load_recipe

    wanted = [*(changes or []), *([] if seed is None else [f"trainer.seed={seed}"])]
    chosen = load_recipe(recipe, [*wanted, *([] if device is None else [f'trainer.device="{device}"'])])
    prepare_machine(chosen.trainer.device, threads, json)
    from regsim.applications.train import TrainRequest, train_model

    total = sum(stage.steps for stage in chosen.stages) * max(1, folds)
    with progress("reading") as bar:
        task = bar.task_ids[0]

        def step(_row: object) -> None:
            bar.update(task, advance=1, total=total)

        cards = train_model(
            TrainRequest(chosen, tuple(data or ()), tuple(test_data or ()), folds, not fresh),
            output,
            step,
            lambda text: bar.update(task, description=text),
        )
    if json != "-":
        for card in cards:
            show_card(card)
    write_json(json, '{"models": [' + ",\n ".join(card.model_dump_json() for card in cards) + "]}")
