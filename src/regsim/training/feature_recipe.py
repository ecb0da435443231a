"""Recipes of `deepsim`: what a feature network learns from two views of one anatomy, and how it is judged."""

from typing import Literal, Self

from pydantic import Field, model_validator

from regsim.metrics.feature_network import FeatureNetworkSettings
from regsim.misalign.pairs import PairSettings
from regsim.misalign.views import ViewSettings
from regsim.settings import Settings
from regsim.training.base_recipe import BaseRecipe
from regsim.training.settings import StageSettings

CHECKED = {"overlap": "higher", "matched": "higher", "reconstruction": "lower"}


class FeatureTerm(Settings):
    """One term of the loss.

    - "segmentation": tissue classes of every voxel: cross-entropy (background half), and `overlap` times 1 - soft Dice.
    - "contrast": features of one place in two views pulled together, apart from features elsewhere: cross-entropy over cosines
      times `sharpness`, of `points` places with other places of the image and with places 1 to `reach` cells away.
    - "autoencoding": mean squared difference of the image and what the network gives back.
    """

    kind: Literal["segmentation", "contrast", "autoencoding"]
    weight: float = Field(default=1.0, gt=0)
    overlap: float = Field(default=0.5, ge=0)
    points: int = Field(default=256, ge=16, le=4096)
    reach: float = Field(default=5.0, gt=1)
    sharpness: float = Field(default=10.0, gt=0)


class FeatureStage(StageSettings):
    """One stage: the terms of its loss, and the settings of its loop."""

    objectives: tuple[FeatureTerm, ...] = Field(min_length=1)


class FeatureRecipe(BaseRecipe):
    """How a model of `deepsim` is trained.

    Args (besides those of `BaseRecipe`):
        metric: deepsim.
        network: see `FeatureNetworkSettings`.
        source: what is read; `spacing` is that of the views' voxels before they are zoomed.
        views: how two views of one anatomy are made.
        pairs: the known misalignments that judge the model, on test subjects.
        stages: the loop.
        checked_views: how many validation views choose the network.
        tested_pairs: how many test pairs of each kind the card's figures come from.
    """

    metric: Literal["deepsim"]
    network: FeatureNetworkSettings = FeatureNetworkSettings()
    views: ViewSettings = ViewSettings()
    pairs: PairSettings = PairSettings()
    stages: tuple[FeatureStage, ...] = Field(min_length=1)
    checked_views: int = Field(default=32, ge=4)
    tested_pairs: int = Field(default=128, ge=32)

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.network.dims

    @model_validator(mode="after")
    def _fits(self) -> Self:
        dims = (self.network.dims, self.views.dims, self.pairs.dims)
        if len(set(dims)) > 1:
            raise ValueError(f"network.dims, views.dims and pairs.dims must be alike, got {dims}")
        if self.views.size % self.network.stride:
            raise ValueError(f"views.size: expected a multiple of {self.network.stride}, got {self.views.size}")
        return self

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Self:
        wanted = {"segmentation": "classes", "autoencoding": "image"}
        for number, stage in enumerate(self.stages):
            for term in stage.objectives:
                needed = wanted.get(term.kind)
                if needed not in (None, self.network.outputs):
                    raise ValueError(
                        f"objective {term.kind} needs network.outputs {needed}, got {self.network.outputs}"
                    )
            if stage.check_every and CHECKED.get(stage.decides) != stage.better:
                known = ", ".join(f"{name} ({better})" for name, better in CHECKED.items())
                raise ValueError(
                    f"stages.{number}: expected decides and better as one of {known}; got {stage.decides} ({stage.better})"
                )
        return self
