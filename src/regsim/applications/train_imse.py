"""A training of `imse`: an evaluator from pairs of one contrast, judged by the contrasts that it has not seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import regsim.metrics.imse  # noqa: F401  (registers the metric that these recipes train)
from regsim.applications.model_card import Figures
from regsim.applications.subjects import OnMessage
from regsim.applications.training_job import TrainingJob
from regsim.errors import InputError
from regsim.evaluation.known_pairs import best_of, draw_known_pairs, judge, least_misaligned
from regsim.metrics import load_metric
from regsim.metrics.evaluator_network import EvaluatorNetwork, inflate
from regsim.metrics.imse import IndescribableSpatialEvaluator
from regsim.misalign.pairs import PairMaker
from regsim.misalign.restyled import AcrossMaker, RestyledMaker
from regsim.misalign.sources import Subject, by_scale
from regsim.output import make_folder
from regsim.training.checks import drawn
from regsim.training.imse_lesson import EvaluatorCheck, EvaluatorLoss, evaluator_figures
from regsim.training.imse_recipe import ImseRecipe, ImseStage
from regsim.training.trainer import OnStep, Stage, Trained, train

CLASSICAL = ("ncc", "lncc", "nmi", "mind")
INTERVAL = "_interval"


class ImseJob(TrainingJob):
    """A training of `imse`."""

    audited = 160

    @property
    def recipe(self) -> ImseRecipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, ImseRecipe)
        return self.request.recipe

    def _prepare(self) -> None:
        recipe, parts = self.recipe, self.parts
        learners = _of_contrast(parts.train, recipe.contrast)
        if not learners:
            there = ", ".join(sorted({name for subject in parts.train for name in subject.images})) or "none"
            raise InputError(
                f"no training subject has the contrast {recipe.contrast}; there are {there}: --set contrast=NAME"
            )
        self.learners = learners
        self.pairs = PairMaker(learners, recipe.pairs)
        self.checked = _of_contrast(parts.validation, recipe.contrast)
        if any(stage.check_every for stage in recipe.stages) and not self.checked:
            raise InputError("check_every needs validation subjects; set their share above 0, or check_every to 0")

    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        recipe = self.recipe
        network = _network(recipe)
        before = 0.0
        if recipe.planes:
            say("learning on planes")
            flat = recipe.on_planes()
            first = _network(flat)
            before = self._taught(first, flat, self.work / "planes", None).seconds
            inflate(first, network)
        say("training")
        trained = self._taught(network, recipe, self.work, on_step)
        return network, replace(trained, seconds=trained.seconds + before)

    def _taught(self, network: EvaluatorNetwork, recipe: ImseRecipe, work: Path, on_step: OnStep | None) -> Trained:
        """Train a network by the stages of a recipe."""
        make_folder(work)
        pairs = self.pairs.with_settings(recipe.pairs)
        check = None
        if self.checked and any(stage.check_every for stage in recipe.stages):
            maker = RestyledMaker(pairs.with_subjects(self.checked), recipe.styles)
            check = EvaluatorCheck(maker, recipe.checked_pairs, recipe.trainer.seed + 1)
        stages = [
            Stage(
                EvaluatorLoss(stage.squared),
                self._maker(recipe, stage),
                check,
                stage,
            )
            for stage in recipe.stages
        ]
        return train(network, stages, recipe.trainer, work, on_step, self.request.resume, self.fingerprint)

    def _maker(self, recipe: ImseRecipe, stage: ImseStage) -> RestyledMaker:
        """The pairs that a stage learns from."""
        subjects = [by_scale(each, factor) for factor in stage.scales for each in self.learners]
        return RestyledMaker(PairMaker(subjects, recipe.pairs_of(stage)), recipe.styles_of(stage))

    def _figures(self) -> Figures:
        """Of every other contrast that test subjects have beside the training contrast; else of that one alone.

        `relative_CONTRAST`: relative L1 of the predicted difference; `spearman_CONTRAST` and the others as `judge` has them,
        with the best classical metric beside.
        """
        recipe, parts = self.recipe, self.parts
        if not parts.test:
            return {"note": "no test subjects: no figures"}
        metric = load_metric(recipe.metric, model=str(self.work))
        assert isinstance(metric, IndescribableSpatialEvaluator)
        network = metric.network_for(recipe.dims)
        names = {name for subject in parts.test for name in subject.images if recipe.contrast in subject.images}
        figures: Figures = {}
        for other in sorted(names - {recipe.contrast}) or sorted(names):
            both = [subject for subject in parts.test if {recipe.contrast, other} <= set(subject.images)]
            maker = AcrossMaker(both, recipe.tested, recipe.contrast, other)
            known = draw_known_pairs(
                maker, recipe.tested_pairs, recipe.trainer.seed + 2, least_misaligned(recipe.tested)
            )
            batches = drawn(maker.restyled, recipe.tested_pairs, recipe.trainer.seed + 3)
            figures[f"relative_{other}"] = evaluator_figures(network, batches)["relative"]
            figures |= {_of(name, other): value for name, value in judge(metric, known).items()}
            best, order = best_of(CLASSICAL, known)
            figures |= {f"best_classical_{other}": best, f"best_classical_spearman_{other}": order}
        return figures or {"note": f"no test subject has the contrast {recipe.contrast}: no figures"}


def _of(figure: str, contrast: str) -> str:
    """The figure's name for one contrast; `x_CONTRAST_interval` goes on belonging to `x_CONTRAST`.

    >>> _of("auc", "t2"), _of("spearman_interval", "t2")
    ('auc_t2', 'spearman_t2_interval')
    """
    stem = figure.removesuffix(INTERVAL)
    return f"{stem}_{contrast}{figure[len(stem) :]}"


def _network(recipe: ImseRecipe) -> EvaluatorNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.trainer.seed)
        return EvaluatorNetwork(recipe.network)


def _of_contrast(subjects: Sequence[Subject], contrast: str) -> list[Subject]:
    """The subjects that have this contrast, with it alone."""
    return [
        replace(subject, images={contrast: subject.images[contrast]}, labels=None)
        for subject in subjects
        if contrast in subject.images
    ]
