"""Recipes of `two_channel`: what pairs to make, what counts as aligned and as misaligned, and how long to learn from them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from regsim.metrics.two_channel_network import TwoChannelSettings
from regsim.misalign.pairs import PairSettings
from regsim.training.base_recipe import BaseRecipe
from regsim.training.settings import StageSettings

CHECKED = {"spearman": "higher", "accuracy": "higher", "cells": "higher", "loss": "lower"}
SAME_CONTRAST = ("noise", "blur")


class TwoChannelStage(StageSettings):
    """One stage.

    Args:
        one_contrast: both images of a pair show one image, changed by noise and blur alone. Pairs of any two contrasts teach a
            network with random weights nothing for a long time; one that knows this much learns from them at once.
    """

    one_contrast: bool = False


class TwoChannelRecipe(BaseRecipe):
    """How a model of `two_channel` is trained.

    Args (besides those of `BaseRecipe`):
        metric: two_channel.
        network: see `TwoChannelSettings`.
        source, pairs: what pairs are made of, and how.
        aligned: a cell whose true displacement is at most this is aligned, in the units of `pairs.motion.error`.
        misaligned: from this on it is misaligned; between the two it teaches nothing.
        both_ways: each pair is shown in both orders.
        stages: in order.
        checked_pairs: how many validation pairs choose the network.
        tested_pairs: how many test pairs of each kind the card's figures come from.
    """

    metric: Literal["two_channel"]
    network: TwoChannelSettings = TwoChannelSettings()
    pairs: PairSettings = PairSettings()
    aligned: float = Field(default=1.0, ge=0)
    misaligned: float = Field(default=4.0, gt=0)
    both_ways: bool = True
    stages: tuple[TwoChannelStage, ...] = Field(min_length=1)
    checked_pairs: int = Field(default=128, ge=16)
    tested_pairs: int = Field(default=256, ge=32)

    @property
    def dims(self) -> int:
        """2 for pictures, 3 for volumes."""
        return self.pairs.dims

    def pairs_of(self, stage: TwoChannelStage) -> PairSettings:
        """The pairs that a stage learns from."""
        if not stage.one_contrast:
            return self.pairs
        kept = tuple(change for change in self.pairs.appearance if change.kind in SAME_CONTRAST)
        return self.pairs.model_copy(update={"pairing": ("one_image",), "appearance": kept})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        network, pairs = self.network, self.pairs
        if network.dims != pairs.dims:
            raise ValueError(
                f"the network is for {network.dims} axes, the pairs have {pairs.dims}; set network.dims and pairs.dims alike"
            )
        if pairs.size % network.stride:
            raise ValueError(f"pairs.size {pairs.size} is no multiple of the network's cells, {network.stride} voxels")
        if not self.aligned < self.misaligned <= pairs.motion.error[1]:
            raise ValueError(
                f"expected aligned < misaligned <= the largest pairs.motion.error, got {self.aligned:g}, "
                f"{self.misaligned:g}, {pairs.motion.error[1]:g}"
            )
        return self

    @model_validator(mode="after")
    def _is_checked_by_what_there_is(self) -> Self:
        for number, stage in enumerate(self.stages):
            if stage.check_every and CHECKED.get(stage.decides) != stage.better:
                raise ValueError(
                    f"stages.{number}: expected decides {', '.join(CHECKED)} (better higher; of loss lower), got "
                    f"'{stage.decides}' and '{stage.better}'"
                )
        return self
