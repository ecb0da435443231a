"""A training of `translation`: a generator between two contrasts, by CycleGAN or RegGAN."""

import torch
from torch import nn

import regsim.metrics.translation  # noqa: F401  (registers the metric that these recipes train)
from regsim.applications.model_card import Figures
from regsim.applications.subjects import OnMessage
from regsim.applications.training_job import TrainingJob
from regsim.errors import InputError
from regsim.evaluation.known_pairs import draw_known_pairs, judge, least_misaligned
from regsim.metrics import load_metric
from regsim.metrics.translation import TranslatedMeanAbsoluteError
from regsim.misalign.restyled import AcrossMaker
from regsim.misalign.sources import Subject
from regsim.training.checks import drawn
from regsim.training.trainer import OnStep, Stage, Trained, train
from regsim.training.translation_lesson import (
    TranslationCheck,
    TranslationLoss,
    TranslationSystem,
    translation_error,
)
from regsim.training.translation_recipe import TranslationRecipe


class TranslationJob(TrainingJob):
    """A training of `translation`."""

    audited = 160

    @property
    def recipe(self) -> TranslationRecipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, TranslationRecipe)
        return self.request.recipe

    def _prepare(self) -> None:
        recipe, parts = self.recipe, self.parts
        learners = self._with_both(parts.train)
        if not learners:
            raise InputError(f"no training subject has both {recipe.contrast} and {recipe.other}")
        self.maker = AcrossMaker(learners, recipe.pairs, recipe.contrast, recipe.other)
        self.pairs = self.maker
        self.checked = self._with_both(parts.validation)
        if any(stage.check_every for stage in recipe.stages) and not self.checked:
            raise InputError("check_every needs validation subjects of both contrasts; or set check_every to 0")

    def _with_both(self, subjects: "tuple[Subject, ...] | list[Subject]") -> list[Subject]:
        return [subject for subject in subjects if {self.recipe.contrast, self.recipe.other} <= set(subject.images)]

    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        say("training")
        recipe, seed = self.recipe, self.recipe.trainer.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            system = TranslationSystem(recipe)
        check = None
        if self.checked and any(stage.check_every for stage in recipe.stages):
            check = TranslationCheck(self.maker.with_subjects(self.checked), recipe.checked_pairs, seed + 1)
        stages = [Stage(TranslationLoss(recipe), self.maker.restyled, check, stage) for stage in recipe.stages]
        trained = train(system, stages, recipe.trainer, self.work, on_step, self.request.resume, self.fingerprint)
        return system.generator, trained

    def _figures(self) -> Figures:
        """`nmae` of the translation, and how the metric orders misalignments, on test subjects."""
        recipe = self.recipe
        judges = self._with_both(self.parts.test)
        if not judges:
            return {"note": f"no test subject has both {recipe.contrast} and {recipe.other}: no figures"}
        metric = load_metric(recipe.metric, model=str(self.work))
        assert isinstance(metric, TranslatedMeanAbsoluteError)
        maker = AcrossMaker(judges, recipe.pairs, recipe.contrast, recipe.other)
        batches = drawn(maker.restyled, recipe.tested_pairs, recipe.trainer.seed + 3)
        least = least_misaligned(recipe.pairs)
        known = draw_known_pairs(maker, recipe.tested_pairs, recipe.trainer.seed + 2, least)
        return {"nmae": translation_error(metric.network, batches), **judge(metric, known)}
