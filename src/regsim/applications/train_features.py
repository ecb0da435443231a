"""A training of `deepsim`: a feature network from views of one anatomy, judged by pairs of known misalignment."""

import torch
from torch import nn

import regsim.metrics.deepsim  # noqa: F401  (registers the metric that these recipes train)
from regsim.applications.model_card import Figures
from regsim.applications.subjects import OnMessage
from regsim.applications.training_job import TrainingJob
from regsim.errors import InputError
from regsim.evaluation.known_pairs import best_of, draw_known_pairs, judge, least_misaligned
from regsim.metrics import load_metric
from regsim.metrics.feature_network import FeatureNetwork
from regsim.misalign.pairs import PairMaker
from regsim.misalign.views import ViewMaker
from regsim.training.feature_lesson import FeatureCheck, FeatureObjectives
from regsim.training.feature_recipe import FeatureRecipe
from regsim.training.trainer import OnStep, Stage, Trained, train

CLASSICAL = ("ncc", "lncc", "nmi", "mind")


class FeatureJob(TrainingJob):
    """A training of `deepsim`."""

    audited = 160

    @property
    def recipe(self) -> FeatureRecipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, FeatureRecipe)
        return self.request.recipe

    def _prepare(self) -> None:
        recipe, parts = self.recipe, self.parts
        self.views = ViewMaker(parts.train, recipe.views)
        self.pairs = PairMaker(parts.test or parts.train, recipe.pairs)
        needed = any(term.kind == "segmentation" for stage in recipe.stages for term in stage.objectives)
        if needed and all(subject.labels is None for subject in parts.train):
            raise InputError("objective segmentation: no training subject has a label map; add SUBJECT_labels to some")
        if any(stage.check_every for stage in recipe.stages) and not parts.validation:
            raise InputError("check_every needs validation subjects; set their share above 0, or check_every to 0")

    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        say("training")
        recipe, seed = self.recipe, self.recipe.trainer.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = FeatureNetwork(recipe.network)
        check = None
        if self.parts.validation and any(stage.check_every for stage in recipe.stages):
            check = FeatureCheck(self.views.with_subjects(self.parts.validation), recipe.checked_views, seed + 1)
        stages = [Stage(FeatureObjectives(stage.objectives), self.views, check, stage) for stage in recipe.stages]
        trained = train(network, stages, recipe.trainer, self.work, on_step, self.request.resume, self.fingerprint)
        network.eval()
        return network, trained

    def _figures(self) -> Figures:
        """Rank correlation with the true error and detection of misalignment on test subjects, beside classical metrics."""
        recipe, parts = self.recipe, self.parts
        if not parts.test:
            return {"note": "no test subjects: no figures"}
        metric = load_metric(recipe.metric, model=str(self.work))
        least = least_misaligned(recipe.pairs)
        pairs = draw_known_pairs(
            PairMaker(parts.test, recipe.pairs), recipe.tested_pairs, recipe.trainer.seed + 2, least
        )
        figures: Figures = {**judge(metric, pairs)}
        best, order = best_of(CLASSICAL, pairs)
        return {**figures, "best_classical": best, "best_classical_spearman": order}
