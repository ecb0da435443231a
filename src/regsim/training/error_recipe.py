"""Recipes of `registration_error`: what pairs to make, how many to keep, and how long to learn from them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from regsim.metrics.error_network import ErrorNetworkSettings
from regsim.misalign.error_pairs import ErrorPairSettings
from regsim.training.base_recipe import BaseRecipe
from regsim.training.settings import StageSettings


class ErrorRecipe(BaseRecipe):
    """How a model of `registration_error` is trained.

    Args (besides those of `BaseRecipe`):
        metric: registration_error.
        network: see `ErrorNetworkSettings`.
        source: what is read; `spacing` is that of the network's working grid.
        pairs: see `ErrorPairSettings`.
        kept_pairs: how many pairs' features are made and learnt from.
        registered: share of them that the driver registers first (`applications.residual_pairs`).
        registered_pairs: how those are drawn; as `pairs` where not given.
        crop: side of the crops that a step sees, cells.
        stages: the loop; one stage.
        shares: of the subjects, for training, validation and test; the test subjects' pairs calibrate the model.
        checked_pairs: how many validation pairs choose the network.
        tested_pairs: how many pairs of the test subjects calibrate it.
    """

    metric: Literal["registration_error"]
    network: ErrorNetworkSettings = ErrorNetworkSettings()
    pairs: ErrorPairSettings = ErrorPairSettings()
    kept_pairs: int = Field(default=480, ge=4, le=1_000_000)
    registered: float = Field(default=0.0, ge=0, le=1)
    registered_pairs: ErrorPairSettings | None = None
    crop: int = Field(default=24, ge=4, le=512)
    stages: tuple[StageSettings, ...] = Field(min_length=1, max_length=1)
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    checked_pairs: int = Field(default=48, ge=4)
    tested_pairs: int = Field(default=96, ge=16)

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.network.dims

    @model_validator(mode="after")
    def _fits(self) -> Self:
        pairs, network = self.pairs.pairs, self.network
        if network.dims != pairs.dims:
            raise ValueError(
                f"the network is for {network.dims} axes, the pairs have {pairs.dims}; set network.dims and "
                "pairs.pairs.dims alike"
            )
        if pairs.spacing != network.spacing:
            raise ValueError(
                f"pairs.pairs.spacing {pairs.spacing:g} is not the network's working spacing {network.spacing:g}"
            )
        if pairs.size % network.side or pairs.size // network.side < self.crop:
            raise ValueError(
                f"pairs.pairs.size {pairs.size} gives {pairs.size / network.side:g} cells; expected a whole number, "
                f"{self.crop} (crop) at least"
            )
        if self.stages[0].check_every and (self.stages[0].decides != "likelihood" or self.stages[0].better != "lower"):
            raise ValueError("stages.0: expected decides likelihood, and better lower")
        return self
