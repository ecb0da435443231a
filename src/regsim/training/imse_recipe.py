"""Recipes of `imse`: what pairs of one contrast an evaluator learns from, in which styles, and how it is judged."""

from typing import Literal, Self

from pydantic import Field, model_validator

from regsim.metrics.evaluator_network import EvaluatorSettings
from regsim.misalign.appearance import Appearance
from regsim.misalign.motion import MotionSettings
from regsim.misalign.pairs import PairSettings
from regsim.misalign.restyled import StyleSettings
from regsim.misalign.window import WindowSettings
from regsim.training.base_recipe import BaseRecipe
from regsim.training.settings import StageSettings

CHECKED = {"relative": "lower", "spearman": "higher"}


class ImseStage(StageSettings):
    """One stage.

    Args:
        squared: weight of the mean squared error beside L1. With AdamW L1 alone rests for long at predicting nothing, which
            is the median of what an unskilled network can know.
        near: voxels; where above 0, the largest displacement of this stage's pairs (training near zero).
        scales: by which factors this stage makes the subjects coarser; one that is named twice is drawn twice as often.
            Rigid registrations ask about whole heads at 8 mm, too. Lengths of motions count in voxels: they grow with the factor.
        window, degrade: of this stage's pairs, in place of `pairs.window` and `styles.degrade`.
    """

    squared: float = Field(default=0.0, ge=0)
    near: float = Field(default=0.0, ge=0)
    scales: tuple[int, ...] = Field(default=(1,), min_length=1)
    window: WindowSettings | None = None
    degrade: tuple[Appearance, ...] | None = None

    @model_validator(mode="after")
    def _scaled(self) -> Self:
        if min(self.scales) < 1:
            raise ValueError(f"scales: expected factors of 1 and more, got {list(self.scales)}")
        return self


class ImseRecipe(BaseRecipe):
    """How a model of `imse` is trained.

    Args (besides those of `BaseRecipe`):
        metric: imse.
        contrast: the training contrast, which goes into the reference slot ("t1"); the name of a file's contrast. Others that
            the training subjects have are not looked at.
        network: see `EvaluatorSettings`.
        source, pairs: what pairs are made of, and how; `pairs.appearance` must be empty, `pairs.pairing` is "one_image".
        styles: how the styled member looks, and the reference.
        planes: of volumes only: stages that teach a network for pictures on planes of `plane_size` first; its kernels become
            the middle planes of the network for volumes (`inflate`). A network for volumes that starts from nothing rests
            much longer at predicting nothing.
        plane_size: side of the planes' crops.
        stages: in order.
        checked_pairs: how many validation pairs choose the network.
        tested_pairs: how many test pairs of each kind the card's figures come from.
        tested_motion: how those part, so that models of unlike trainings are judged alike; none: as in training.
    """

    metric: Literal["imse"]
    contrast: str = "t1"
    network: EvaluatorSettings = EvaluatorSettings()
    pairs: PairSettings = PairSettings()
    styles: StyleSettings = StyleSettings()
    planes: tuple[ImseStage, ...] = ()
    plane_size: int = Field(default=64, ge=16, le=1024)
    stages: tuple[ImseStage, ...] = Field(min_length=1)
    checked_pairs: int = Field(default=64, ge=16)
    tested_pairs: int = Field(default=128, ge=32)
    tested_motion: MotionSettings | None = None

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.pairs.dims

    def on_planes(self) -> "ImseRecipe":
        """The recipe of what is learnt on planes."""
        pairs = self.pairs.model_copy(update={"dims": 2, "size": self.plane_size})
        network = self.network.model_copy(update={"dims": 2})
        return self.model_copy(update={"pairs": pairs, "network": network, "stages": self.planes, "planes": ()})

    @property
    def tested(self) -> PairSettings:
        """The pairs that the card's figures come from."""
        return self.pairs.model_copy(update={"motion": self.tested_motion or self.pairs.motion})

    def pairs_of(self, stage: ImseStage) -> PairSettings:
        """The pairs that a stage learns from."""
        motion = self.pairs.motion
        if stage.near:
            error = (min(motion.error[0], stage.near / 2), stage.near)
            motion = motion.model_copy(update={"error": error})
        return self.pairs.model_copy(update={"motion": motion, "window": stage.window or self.pairs.window})

    def styles_of(self, stage: ImseStage) -> StyleSettings:
        """How a stage's pairs look."""
        return self.styles if stage.degrade is None else self.styles.model_copy(update={"degrade": stage.degrade})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.network.dims != self.pairs.dims:
            raise ValueError(
                f"the network is for {self.network.dims} axes, the pairs have {self.pairs.dims}; set network.dims and "
                "pairs.dims alike"
            )
        if self.pairs.appearance:
            raise ValueError("pairs.appearance must be empty: what changes the styled image belongs into styles")
        if self.pairs.pairing != ("one_image",):
            raise ValueError(f"pairs.pairing must be one_image, got {', '.join(self.pairs.pairing)}")
        if self.planes and self.dims == 2:
            raise ValueError("planes: a network for pictures has no planes to start from; leave them out")
        for number, stage in enumerate((*self.planes, *self.stages)):
            if stage.check_every and CHECKED.get(stage.decides) != stage.better:
                known = ", ".join(f"{name} ({better})" for name, better in CHECKED.items())
                raise ValueError(
                    f"stages.{number}: expected decides and better as one of {known}; got {stage.decides} ({stage.better})"
                )
        return self
