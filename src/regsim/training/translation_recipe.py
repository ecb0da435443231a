"""Recipes of `translation`: generators from one contrast to another, by CycleGAN or by RegGAN."""

from typing import Literal, Self

from pydantic import Field, model_validator

from regsim.metrics.evaluator_network import EvaluatorSettings
from regsim.misalign.pairs import PairSettings
from regsim.training.base_recipe import BaseRecipe
from regsim.training.settings import StageSettings

CHECKED = {"nmae": "lower"}


class TranslationRecipe(BaseRecipe):
    """How a generator is trained.

    Args (besides those of `BaseRecipe`):
        metric: translation.
        method: "cyclegan": two generators, two discriminators, cycle and identity losses, images that are not paired;
            "reggan": one generator, one discriminator, and a registration network that takes up the misalignment of pairs.
        contrast: what is translated to ("t1"). other: what is translated ("t2").
        network: of the generators, and (with two inputs) of RegGAN's registration network.
        discriminator: channels of its convolutions, each of which halves the resolution.
        adversarial, cycle, identity: weights of CycleGAN's terms (1, 10 and 5 in the paper).
        correction, smooth: weights of RegGAN's corrected L1 and of its field's smoothness (20 and 10 in the paper).
        source, pairs: what pairs are made of, and how far they part.
        stages: the loop.
        checked_pairs: how many validation pairs choose the network.
        tested_pairs: how many test pairs the card's figures come from.
    """

    metric: Literal["translation"]
    method: Literal["cyclegan", "reggan"]
    contrast: str = "t1"
    other: str = "t2"
    network: EvaluatorSettings = EvaluatorSettings()
    discriminator: tuple[int, ...] = Field(default=(32, 64, 96), min_length=1, max_length=6)
    adversarial: float = Field(default=1.0, ge=0)
    cycle: float = Field(default=10.0, ge=0)
    identity: float = Field(default=5.0, ge=0)
    correction: float = Field(default=20.0, ge=0)
    smooth: float = Field(default=10.0, ge=0)
    pairs: PairSettings = PairSettings()
    stages: tuple[StageSettings, ...] = Field(min_length=1)
    checked_pairs: int = Field(default=64, ge=16)
    tested_pairs: int = Field(default=128, ge=32)

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.pairs.dims

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.network.dims != self.pairs.dims:
            raise ValueError(
                f"the network is for {self.network.dims} axes, the pairs have {self.pairs.dims}; set network.dims and "
                "pairs.dims alike"
            )
        if self.contrast == self.other:
            raise ValueError(f"contrast and other must be two contrasts, got '{self.contrast}' twice")
        for number, stage in enumerate(self.stages):
            if stage.check_every and CHECKED.get(stage.decides) != stage.better:
                raise ValueError(f"stages.{number}: expected decides nmae and better lower, got {stage.decides}")
        return self
