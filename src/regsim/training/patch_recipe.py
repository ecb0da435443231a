"""Recipes of `patch_likelihood`: shot by shot, from pairs that are only roughly aligned."""

from typing import Literal, Self

from pydantic import Field, model_validator

from regsim.metrics.patch_network import PatchSettings
from regsim.misalign.pairs import PairSettings
from regsim.misalign.patch_pairs import PatchPairSettings, check_reach
from regsim.settings import Settings
from regsim.training.base_recipe import BaseRecipe
from regsim.training.settings import StageSettings

OF_SHOTS = ("dither", "dither_rotation", "apart", "reach", "exchange")
CHECKED = {"accuracy": "higher", "loss": "lower"}


class Shot(Settings):
    """One shot: a network is learnt from the pairs as they lie, and then brings them nearer.

    Args:
        spacing: of the images, mm (pixels for pictures without spacing).
        dither: see `PatchPairSettings`; at least as large as the misalignment that is still expected along an axis.
        dither_rotation: degrees.
        apart, reach, exchange: see `PatchPairSettings`.
        optimiser: how the pairs are registered: "gradient" (L-BFGS) or "powell".
        steps: about the most evaluations of a registration (Powell: 4 times as many for each parameter).
    """

    spacing: float = Field(gt=0)
    dither: float = Field(default=0.0, ge=0)
    dither_rotation: float = Field(default=0.0, ge=0, le=90)
    apart: float = Field(default=20.0, gt=0)
    reach: float = Field(default=0.0, ge=0)
    exchange: bool = False
    optimiser: Literal["gradient", "powell"] = "gradient"
    steps: int = Field(default=60, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_reach(self.apart, self.reach)
        return self


class MultiShotRecipe(BaseRecipe):
    """How a model of `patch_likelihood` is learnt from roughly aligned pairs.

    Args (besides those of `BaseRecipe`):
        metric: patch_likelihood.
        network: see `PatchSettings`; `network.spacings` are those of the shots, once each.
        patches: how patches are cut; the shots set `dither`, `dither_rotation`, `apart`, `reach` and `exchange`.
        shots: in order.
        learning: how each shot's network is taught.
        patches_compared: how many a registration compares.
        settled: once the median pair has moved by less than this in a shot (mm), further shots at that spacing are left out.
        cross_fitted: into how many parts the people are divided; a pair is then registered by a network that was taught on the
            other parts, one training for each part and shot beside the one that is kept. 0: all pairs by the network that they
            taught. Of few people a network may remember how their pairs lie, wrong as that is, and leave them there.
        checked_patches: how many patches of the validation pairs choose the network.
        tested: pairs of known misalignment, cut from the test subjects, for the card's figures.
        tested_pairs: how many of each kind.
    """

    metric: Literal["patch_likelihood"]
    network: PatchSettings = PatchSettings()
    patches: PatchPairSettings = PatchPairSettings()
    shots: tuple[Shot, ...] = Field(min_length=1, max_length=16)
    learning: StageSettings
    patches_compared: int = Field(default=256, ge=1)
    settled: float = Field(default=0.0, ge=0)
    cross_fitted: int = Field(default=0, ge=0, le=16)
    checked_patches: int = Field(default=512, ge=16)
    tested: PairSettings = PairSettings()
    tested_pairs: int = Field(default=64, ge=32)

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.network.dims

    @property
    def finest(self) -> float:
        """The smallest spacing of all shots."""
        return min(shot.spacing for shot in self.shots)

    @property
    def stages(self) -> tuple[StageSettings, ...]:
        """The steps of each shot."""
        return tuple(self.learning for _ in self.shots)

    def patches_of(self, shot: Shot) -> PatchPairSettings:
        """How a shot's patches are cut."""
        return self.patches.model_copy(update={name: getattr(shot, name) for name in OF_SHOTS})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = tuple(sorted({shot.spacing for shot in self.shots}, reverse=True))
        if self.network.spacings != wanted:
            raise ValueError(
                f"network.spacings {list(self.network.spacings)}: expected those of the shots, {list(wanted)}"
            )
        if self.network.symmetric and not self.patches.symmetrise:
            raise ValueError("network.symmetric needs patches.symmetrise: a network is asked as it was taught")
        if self.cross_fitted == 1:
            raise ValueError("cross_fitted: expected 0, or at least 2 parts; got 1")
        if self.tested.dims != self.network.dims:
            raise ValueError(f"tested.dims {self.tested.dims} is not network.dims {self.network.dims}")
        own = PatchPairSettings.model_fields
        for name in OF_SHOTS:
            if getattr(self.patches, name) != own[name].default:
                raise ValueError(f"patches.{name}: each shot has its own; set shots.0.{name} and so on")
        if self.learning.check_every and CHECKED.get(self.learning.decides) != self.learning.better:
            raise ValueError(
                f"learning: expected decides accuracy (better higher) or loss (better lower), got "
                f"'{self.learning.decides}' and '{self.learning.better}'"
            )
        return self
