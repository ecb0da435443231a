"""Recipes: everything that makes a training what it is, in one TOML file. Those that come with regsim lie in `recipes/`."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from regsim.errors import InputError, SettingsError, unknown_name
from regsim.metrics.siamese import SiameseSettings
from regsim.misalign.pairs import PairSettings
from regsim.training.base_recipe import BaseRecipe
from regsim.training.error_recipe import ErrorRecipe
from regsim.training.feature_recipe import FeatureRecipe
from regsim.training.imse_recipe import ImseRecipe
from regsim.training.objectives import Objective
from regsim.training.patch_recipe import MultiShotRecipe
from regsim.training.settings import StageSettings
from regsim.training.translation_recipe import TranslationRecipe
from regsim.training.two_channel_recipe import TwoChannelRecipe

RECIPES = Path(__file__).parent / "recipes"
CHECKED = ("spearman", "accuracy")
NEEDED_HEAD = {"cross_entropy": "dense", "regression": "local", "local_regression": "local"}
LARGEST_SHAPES = 2**32
BYTES_A_VOXEL = 9


class RecipeStage(StageSettings):
    """One stage: the terms of its loss, and the settings of its loop."""

    objectives: tuple[Objective, ...] = Field(min_length=1)


class Recipe(BaseRecipe):
    """How a model is trained.

    Args (besides those of `BaseRecipe`):
        metric: the registered metric that it will belong to.
        network: see `SiameseSettings`.
        source, pairs: what pairs are made of, and how.
        stages: in order.
        checked_pairs: how many validation pairs choose the network.
        tested_pairs: how many test pairs of each kind the card's figures come from.
    """

    metric: Literal["siamregqc"]
    network: SiameseSettings = SiameseSettings()
    pairs: PairSettings = PairSettings()
    stages: tuple[RecipeStage, ...] = Field(min_length=1)
    checked_pairs: int = Field(default=128, ge=16)
    tested_pairs: int = Field(default=256, ge=32)

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.pairs.dims

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.network.encoder.dims != self.pairs.dims:
            raise ValueError(
                f"the network is for {self.network.encoder.dims} axes, the pairs have {self.pairs.dims}; set "
                "network.encoder.dims and pairs.dims alike"
            )
        if self.pairs.size < self.network.encoder.stride:
            raise ValueError(
                f"pairs.size {self.pairs.size} is smaller than the network's reach, {self.network.encoder.stride} voxels"
            )
        return self

    @model_validator(mode="after")
    def _can_be_learnt(self) -> "Recipe":
        head = self.network.head
        for number, stage in enumerate(self.stages):
            for term in stage.objectives:
                if NEEDED_HEAD.get(term.kind, head) != head:
                    raise ValueError(f"objective {term.kind} needs network.head {NEEDED_HEAD[term.kind]}, got {head}")
            if stage.check_every and (stage.decides not in CHECKED or stage.better != "higher"):
                raise ValueError(
                    f"stages.{number}: expected decides spearman or accuracy, and better higher, got "
                    f"'{stage.decides}' and '{stage.better}'"
                )
        if self.network.value == "error" and head != "local":
            raise ValueError("network.value error needs network.head local")
        return self

    @model_validator(mode="after")
    def _shapes_fit_the_memory(self) -> "Recipe":
        source = self.source
        if source.shapes * source.shape_size**self.pairs.dims * BYTES_A_VOXEL > LARGEST_SHAPES:
            raise ValueError(
                f"{source.shapes} made-up anatomies of {source.shape_size} voxels a side do not fit into "
                f"{LARGEST_SHAPES >> 30} GB of memory; lower source.shapes or source.shape_size"
            )
        return self


AnyRecipe = Recipe | ErrorRecipe | FeatureRecipe | TwoChannelRecipe | ImseRecipe | TranslationRecipe | MultiShotRecipe
KINDS: dict[object, type[AnyRecipe]] = {
    "registration_error": ErrorRecipe,
    "deepsim": FeatureRecipe,
    "two_channel": TwoChannelRecipe,
    "imse": ImseRecipe,
    "translation": TranslationRecipe,
    "patch_likelihood": MultiShotRecipe,
}


def recipe_names() -> list[str]:
    """The recipes that come with regsim.

    >>> "siamregqc" in recipe_names()
    True
    """
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def bundled_recipes() -> dict[str, AnyRecipe]:
    """They themselves by name."""
    return {name: load_recipe(name) for name in recipe_names()}


def load_recipe(name: str | Path, changes: Sequence[str] = ()) -> AnyRecipe:
    """A recipe by its name or from a TOML file, with changes `key.key=value` (values as in TOML; bare words are text).

    Raises:
        SettingsError: an unknown recipe or key (the message names the nearest), a value of the wrong kind.

    Example:
        >>> load_recipe("siamregqc", ["pairs.size=64", "trainer.seed=3"]).pairs.size
        64
    """
    values = _read(name)
    for change in changes:
        _apply(values, change)
    metric = values.get("metric")
    return KINDS.get(metric if isinstance(metric, str) else None, Recipe).checked(values)


def _read(name: str | Path) -> dict[str, object]:
    path = RECIPES / f"{name}.toml" if str(name) in recipe_names() else Path(name)
    if not path.is_file():
        if Path(name).suffix != ".toml":
            raise unknown_name("recipe", str(name), recipe_names())
        raise SettingsError(f"recipe '{name}': no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"recipe '{path}' cannot be read: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"recipe '{path.name}' is not TOML: {problem}") from None


def _apply(values: dict[str, object], change: str) -> None:
    """Set one value, however deep; `stages.0.steps=100` counts the stages from 0."""
    key, equals, text = change.partition("=")
    if not (key.strip() and equals):
        raise SettingsError(f"--set '{change}': expected key=value, such as pairs.size=64")
    *way, last = key.strip().split(".")
    place: object = values
    for part in way:
        place = _step(place, part, change)
    if isinstance(place, list):
        place[_number(last, place, change)] = _value(text.strip(), change)
    elif isinstance(place, dict):
        place[last] = _value(text.strip(), change)
    else:
        raise SettingsError(f"--set '{change}': '{way[-1]}' is a value, nothing lies below it")


def _step(place: object, part: str, change: str) -> object:
    if isinstance(place, list):
        return place[_number(part, place, change)]
    if isinstance(place, dict):
        return place.setdefault(part, {})
    raise SettingsError(f"--set '{change}': '{part}' lies below a value")


def _number(part: str, place: list[object], change: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise SettingsError(f"--set '{change}': expected a number from 0 to {len(place) - 1}, got '{part}'")
    return int(part)


def _value(text: str, change: str) -> object:
    """As TOML reads it; a bare word is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if text[:1] in ("[", "{", '"', "'"):
            raise SettingsError(
                f'--set \'{change}\': expected a value as in TOML, such as 3, true or ["t1", "t2"], got {text}'
            ) from None
        return text
