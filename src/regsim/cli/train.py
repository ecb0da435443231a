"""`regsim train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regsim.cli.options import Json, Threads, prepare_machine, progress, write_json
from regsim.cli.tables import say, show_card, show_recipes, show_report
from regsim.errors import SettingsError

if TYPE_CHECKING:
    from rich.progress import Progress

    from regsim.training.log import CurveRow
    from regsim.training.recipe import AnyRecipe

FINISHED = "finished before"


def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe's name (see --list) or a TOML file.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Model folder to fill.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Folder or manifest; repeat. Without: the bundled brain.")
    ] = None,
    test_data: Annotated[
        list[Path] | None, typer.Option("--test-data", help="Subjects that only judge; repeat.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="Roughly aligned pairs (CSV: fixed, moving), for multi-shot recipes.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe; repeat.")
    ] = None,
    folds: Annotated[int, typer.Option("--folds", min=0, help="Cross-validate: this many trainings.")] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train from the start; replace what is in the folder.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes that come with regsim.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="In place of the recipe's.")] = None,
    threads: Threads = 0,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; in place of the recipe's.")] = None,
    json: Json = None,
) -> None:
    """Train a learned metric by a recipe; the folder can be used as a metric at once."""
    from regsim.training.recipe import bundled_recipes, load_recipe, recipe_names

    if listed:
        show_recipes(bundled_recipes())
        return
    if recipe is None or output is None:
        missing = "a recipe" if recipe is None else "a folder for the model, -o FOLDER"
        raise SettingsError(f"train: expected {missing}, got none; the recipes: {', '.join(recipe_names())}")
    wanted = [*(changes or []), *([] if seed is None else [f"trainer.seed={seed}"])]
    chosen = load_recipe(recipe, [*wanted, *([] if device is None else [f'trainer.device="{device}"'])])
    prepare_machine(chosen.trainer.device, threads, json)
    from regsim.applications.train import TrainRequest, train_model

    asked = TrainRequest(chosen, tuple(data or ()), tuple(test_data or ()), pairs, folds, not fresh)
    with progress("reading") as bar:
        shown = _Shown(bar, chosen, folds)
        cards = train_model(asked, output, shown.step, shown.say)
    if json != "-":
        for number, card in enumerate(cards, start=1):
            show_card(card)
            show_report((output / f"fold-{number}" if folds else output) / "report.html")
        if shown.said.count(FINISHED):
            say("this training was finished before, nothing was trained anew; --fresh does")
    write_json(json, '{"models": [' + ",\n ".join(card.model_dump_json() for card in cards) + "]}")


class _Shown:
    """What the bar shows: what is done now, and how many steps of how many were made."""

    def __init__(self, bar: "Progress", recipe: "AnyRecipe", folds: int):
        self.bar, self.task = bar, bar.task_ids[0]
        self.steps = [stage.steps for stage in recipe.stages]
        self.total = sum(self.steps) * max(1, folds)
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Something begins."""
        self.said.append(text)
        self.bar.update(self.task, description=text)

    def step(self, row: "CurveRow") -> None:
        """A step was made; steps before a pause count, too."""
        before = sum(self.steps) * (self.said.count("training") + self.said.count(FINISHED) - 1)
        self.bar.update(self.task, completed=before + sum(self.steps[: row.stage]) + row.step, total=self.total)
