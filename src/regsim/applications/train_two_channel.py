"""A training of `two_channel`: pairs of one contrast first, then of any."""

import torch
from torch import nn

from regsim.applications.pair_job import PairJob
from regsim.applications.subjects import OnMessage
from regsim.metrics.two_channel_network import TwoChannelNetwork
from regsim.training.trainer import OnStep, Stage, Trained, train
from regsim.training.two_channel_lesson import CellCrossEntropy, TwoChannelCheck
from regsim.training.two_channel_recipe import TwoChannelRecipe


class TwoChannelJob(PairJob):
    """A training of `two_channel`."""

    @property
    def recipe(self) -> TwoChannelRecipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, TwoChannelRecipe)
        return self.request.recipe

    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        say("training")
        recipe, seed = self.recipe, self.recipe.trainer.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TwoChannelNetwork(recipe.network)
        objective = CellCrossEntropy(recipe.aligned, recipe.misaligned, recipe.both_ways)
        check = None
        if self.parts.validation and any(stage.check_every for stage in recipe.stages):
            chosen = self.pairs.with_subjects(self.parts.validation)
            check = TwoChannelCheck(chosen, recipe.checked_pairs, seed + 1, objective)
        stages = [
            Stage(objective, self.pairs.with_settings(recipe.pairs_of(stage)), check, stage) for stage in recipe.stages
        ]
        return network, train(
            network, stages, recipe.trainer, self.work, on_step, self.request.resume, self.fingerprint
        )
