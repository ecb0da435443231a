"""From a recipe to a model folder: subjects, audit, training, figures on unseen subjects, card, page."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import regsim.metrics.siamregqc  # noqa: F401  (registers the metric that recipes train)
from regsim.applications.model_card import Figures
from regsim.applications.subjects import OnMessage, Parts, divided, read_all, silently
from regsim.applications.train_error import ErrorJob
from regsim.applications.training_job import TrainingJob, TrainRequest
from regsim.errors import InputError
from regsim.evaluation.known_pairs import costs, draw_known_pairs, judge
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.checkpoint import Card
from regsim.metrics.siamese import SiameseNetwork
from regsim.misalign.pairs import PairMaker
from regsim.misalign.sources import Subject
from regsim.output import check_folder
from regsim.training.checks import PairCheck, best_threshold
from regsim.training.error_recipe import ErrorRecipe
from regsim.training.objectives import Learner, Objectives
from regsim.training.recipe import Recipe
from regsim.training.trainer import OnStep, Stage, Trained, train

__all__ = ["TrainRequest", "read_all", "train_model", "train_on"]

CLASSICAL = ("mse", "ncc", "lncc", "ssim", "nmi", "mind")
LEAST_MISALIGNED = 2.0


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
    kind: type[TrainingJob] = ErrorJob if isinstance(request.recipe, ErrorRecipe) else _SiameseJob
    jobs = [kind(request, part, place) for part, place in zip(parts, places, strict=True)]
    return [job.run(on_step, say) for job in jobs]


class _SiameseJob(TrainingJob):
    """A training of `siamregqc`."""

    @property
    def recipe(self) -> Recipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, Recipe)
        return self.request.recipe

    def _prepare(self) -> None:
        self.pairs = PairMaker(self.parts.train, self.recipe.pairs)
        for others in (self.parts.validation, self.parts.test):
            if others:
                self.pairs.with_subjects(others)
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

    def _figures(self) -> Figures:
        """What the card says, measured with the model as it was stored, on test subjects."""
        recipe, parts = self.recipe, self.parts
        if not parts.test:
            return {"note": "no test subjects: no figures"}
        metric = load_metric(recipe.metric, model=str(self.work))
        least = min(LEAST_MISALIGNED * recipe.pairs.spacing, recipe.pairs.motion.error[1] / 2)
        pairs = draw_known_pairs(
            PairMaker(parts.test, recipe.pairs), recipe.tested_pairs, recipe.trainer.seed + 2, least
        )
        threshold = self._threshold(metric, least)
        figures: Figures = {"threshold": threshold, **judge(metric, pairs, threshold)}
        classical: list[AbstractMetric] = [load_metric(name) for name in CLASSICAL]
        ranks = {other.name: float(str(judge(other, pairs)["spearman"])) for other in classical}
        best = max(ranks, key=lambda name: ranks[name])
        return {**figures, "best_classical": best, "best_classical_spearman": ranks[best]}

    def _threshold(self, metric: AbstractMetric, least: float) -> float:
        """Above which cost a pair is called misaligned.

        Half of the smallest misalignment where the value is an error; else the best one on pairs of the training and
        validation subjects (a few validation subjects alone would make it a matter of chance).
        """
        recipe = self.recipe
        if recipe.network.value == "error":
            return least / 2
        known = [*self.parts.train, *self.parts.validation]
        maker = PairMaker([subject for subject in known if subject.images] or known, recipe.pairs)
        pairs = draw_known_pairs(maker, 2 * recipe.checked_pairs, recipe.trainer.seed + 3, least).sorted
        return best_threshold(costs(metric, pairs), pairs.misaligned)[1]


def _check_teachable(recipe: Recipe, parts: Parts) -> None:
    """Checks need subjects; and segmentation would teach a subject without a label map that all of it is background."""
    if any(stage.check_every for stage in recipe.stages) and not parts.validation:
        raise InputError("check_every needs validation subjects; set their share above 0, or check_every to 0")
    needed = any(term.kind == "segmentation" for stage in recipe.stages for term in stage.objectives)
    bare = next((subject.name for subject in parts.train if needed and subject.labels is None), None)
    if bare is not None:
        raise InputError(
            f"objective segmentation: subject '{bare}' has no label map; add SUBJECT_labels, or leave it out"
        )
