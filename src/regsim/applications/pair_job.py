"""Trainings on pairs of known misalignment, whose metrics are judged by such pairs of unseen subjects."""

from abc import abstractmethod

from regsim.applications.model_card import Figures
from regsim.applications.training_job import TrainingJob
from regsim.errors import InputError
from regsim.evaluation.known_pairs import best_of, costs, draw_known_pairs, judge, least_misaligned
from regsim.metrics import AbstractMetric, load_metric
from regsim.misalign.pairs import PairMaker
from regsim.training.checks import best_threshold
from regsim.training.recipe import Recipe
from regsim.training.two_channel_recipe import TwoChannelRecipe

CLASSICAL = ("mse", "ncc", "lncc", "ssim", "nmi", "mind")


class PairJob(TrainingJob):
    """A training of a metric that gives every pair a value."""

    @property
    @abstractmethod
    def recipe(self) -> Recipe | TwoChannelRecipe:
        """Of this kind."""

    def _prepare(self) -> None:
        self.pairs = PairMaker(self.parts.train, self.recipe.pairs)
        for others in (self.parts.validation, self.parts.test):
            if others:
                self.pairs.with_subjects(others)
        if any(stage.check_every for stage in self.recipe.stages) and not self.parts.validation:
            raise InputError("check_every needs validation subjects; set their share above 0, or check_every to 0")

    def _figures(self) -> Figures:
        """What the card says, measured with the model as it was stored, on test subjects."""
        recipe, parts = self.recipe, self.parts
        if not parts.test:
            return {"note": "no test subjects: no figures"}
        metric = load_metric(recipe.metric, model=str(self.work))
        least = least_misaligned(recipe.pairs)
        pairs = draw_known_pairs(
            PairMaker(parts.test, recipe.pairs), recipe.tested_pairs, recipe.trainer.seed + 2, least
        )
        threshold = self._threshold(metric, least)
        figures: Figures = {"threshold": threshold, **judge(metric, pairs, threshold)}
        best, order = best_of(CLASSICAL, pairs)
        return {**figures, "best_classical": best, "best_classical_spearman": order}

    def _threshold(self, metric: AbstractMetric, least: float) -> float:
        """Above which cost a pair is called misaligned: the best one on pairs of the training and validation subjects.

        (A few validation subjects alone would make it a matter of chance.)
        """
        recipe = self.recipe
        known = [*self.parts.train, *self.parts.validation]
        maker = PairMaker([subject for subject in known if subject.images] or known, recipe.pairs)
        pairs = draw_known_pairs(maker, 2 * recipe.checked_pairs, recipe.trainer.seed + 3, least).sorted
        return best_threshold(costs(metric, pairs), pairs.misaligned)[1]
