"""From a recipe to a model folder: subjects, audit, training, figures on unseen subjects, card, page."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import regsim.metrics.siamregqc  # noqa: F401  (registers the metric that recipes train)
from regsim.applications.multi_shot import multi_shot_job
from regsim.applications.pair_job import PairJob
from regsim.applications.subjects import OnMessage, Parts, divided, read_all, silently
from regsim.applications.train_error import ErrorJob
from regsim.applications.train_features import FeatureJob
from regsim.applications.train_imse import ImseJob
from regsim.applications.train_translation import TranslationJob
from regsim.applications.train_two_channel import TwoChannelJob
from regsim.applications.training_job import TrainingJob, TrainRequest
from regsim.errors import InputError, SettingsError
from regsim.metrics import AbstractMetric
from regsim.metrics.checkpoint import Card
from regsim.metrics.siamese import SiameseNetwork
from regsim.misalign.sources import Subject
from regsim.output import check_folder
from regsim.training.checks import PairCheck
from regsim.training.error_recipe import ErrorRecipe
from regsim.training.feature_recipe import FeatureRecipe
from regsim.training.imse_recipe import ImseRecipe
from regsim.training.objectives import Learner, Objectives
from regsim.training.patch_recipe import MultiShotRecipe
from regsim.training.recipe import AnyRecipe, Recipe
from regsim.training.trainer import OnStep, Stage, Trained, train
from regsim.training.translation_recipe import TranslationRecipe
from regsim.training.two_channel_recipe import TwoChannelRecipe

__all__ = ["TrainRequest", "read_all", "train_model", "train_on"]


def train_model(
    request: TrainRequest, folder: Path, on_step: OnStep | None = None, say: OnMessage = silently
) -> list[Card]:
    """Train, judge, and fill the model folder (one subfolder a fold where folds are asked for).

    Writes `model.safetensors`, `card.json`, `curves.csv`, `audit.json`, `run.json` and `report.html`, all at the end and
    together; until then the work lies in the subfolder `unfinished`. A run that was killed goes on where it was. A model
    that was trained by the same recipe on the same data is not trained again, one of another recipe is not replaced
    unless `request.resume` is False. The audit refuses pairs that give their answer away before any training.

    Raises:
        RegsimError: bad input, too few subjects, a pair maker that leaks, a training that had to stop.
    """
    check_folder(folder)
    if isinstance(request.recipe, MultiShotRecipe):
        return [multi_shot_job(request, folder, say).run(on_step, say)]
    if request.pairs is not None:
        raise SettingsError(
            f"recipe '{request.recipe.name}' learns from subjects, --data; --pairs is for multi-shot ones"
        )
    subjects = read_all(request.data, request.recipe, say)
    test = read_all(request.test_data, request.recipe, say)
    return train_on(subjects, test, request, folder, on_step, say)


def train_on(
    subjects: Sequence[Subject],
    test: Sequence[Subject],
    request: TrainRequest,
    folder: Path,
    on_step: OnStep | None = None,
    say: OnMessage = silently,
) -> list[Card]:
    """`train_model` with subjects that were read before; `test` judges in place of a share of `subjects`."""
    parts = divided(subjects, test, request.recipe, request.folds)
    places = [folder / f"fold-{number}" for number in range(1, len(parts) + 1)] if request.folds else [folder]
    jobs = [JOBS[type(request.recipe)](request, part, place) for part, place in zip(parts, places, strict=True)]
    return [job.run(on_step, say) for job in jobs]


class _SiameseJob(PairJob):
    """A training of `siamregqc`."""

    @property
    def recipe(self) -> Recipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, Recipe)
        return self.request.recipe

    def _prepare(self) -> None:
        super()._prepare()
        _check_teachable(self.recipe, self.parts)

    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        say("training")
        recipe, seed = self.recipe, self.recipe.trainer.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            terms = [term for stage in recipe.stages for term in stage.objectives]
            learner = Learner(SiameseNetwork(recipe.network), terms)
        check = None
        if self.parts.validation and any(stage.check_every for stage in recipe.stages):
            check = PairCheck(self.pairs.with_subjects(self.parts.validation), recipe.checked_pairs, seed + 1)
        stages = [Stage(Objectives(stage.objectives), self.pairs, check, stage) for stage in recipe.stages]
        resume = self.request.resume
        return learner.network, train(learner, stages, recipe.trainer, self.work, on_step, resume, self.fingerprint)

    def _threshold(self, metric: AbstractMetric, least: float) -> float:
        """Half of the smallest misalignment where the value is an error."""
        return least / 2 if self.recipe.network.value == "error" else super()._threshold(metric, least)


def _check_teachable(recipe: Recipe, parts: Parts) -> None:
    """Segmentation would teach a subject without a label map that all of it is background."""
    needed = any(term.kind == "segmentation" for stage in recipe.stages for term in stage.objectives)
    bare = next((subject.name for subject in parts.train if needed and subject.labels is None), None)
    if bare is not None:
        raise InputError(
            f"objective segmentation: subject '{bare}' has no label map; add SUBJECT_labels, or leave it out"
        )


JOBS: dict[type[AnyRecipe], type[TrainingJob]] = {
    Recipe: _SiameseJob,
    ErrorRecipe: ErrorJob,
    FeatureRecipe: FeatureJob,
    TwoChannelRecipe: TwoChannelJob,
    ImseRecipe: ImseJob,
    TranslationRecipe: TranslationJob,
}
