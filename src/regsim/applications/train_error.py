"""A training of `registration_error`: features made once, the network, a calibration on the test subjects."""

from typing import Any

import torch
from torch import nn

from regsim.applications.model_card import Figures, fingerprint
from regsim.applications.residual_pairs import ResidualPairMaker
from regsim.applications.subjects import OnMessage
from regsim.applications.training_job import TrainingJob
from regsim.errors import InputError
from regsim.evaluation.calibration import calibrate
from regsim.evaluation.check_rows import RESOLVABLE
from regsim.evaluation.known_errors import Judged, judge_made_pairs, pair_figures
from regsim.metrics.error_network import ErrorNetwork
from regsim.metrics.registration_error import CALIBRATION, RegistrationError
from regsim.misalign.error_pairs import ErrorPairMaker, ErrorPairs
from regsim.misalign.pairs import PairMaker
from regsim.misalign.sources import Subject
from regsim.training.error_features import FeatureStore
from regsim.training.error_lesson import ErrorCheck, ErrorLikelihood, FeatureCrops
from regsim.training.error_recipe import ErrorRecipe
from regsim.training.state import step_seed
from regsim.training.trainer import OnStep, Stage, Trained, train

FEATURES = "features"
FEWEST_TO_CALIBRATE = 2
NOT_OF_FEATURES: dict[str, Any] = {
    "trainer": {"device", "fast_memory", "checkpoint_every", "ahead", "amp", "channels_last"},
    "network": {"stem", "widths", "knots"},
    **dict.fromkeys(("stages", "crop", "name", "description", "licence", "tested_pairs", "audit"), True),
}
"""A recipe that differs in these alone goes on with the features that are there."""


class ErrorJob(TrainingJob):
    """A training of `registration_error`."""

    audited = 160

    @property
    def recipe(self) -> ErrorRecipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, ErrorRecipe)
        return self.request.recipe

    def _prepare(self) -> None:
        self.pairs = ErrorPairMaker(self.parts.train, self.recipe.pairs).makers[0]
        for others in (self.parts.validation, self.parts.test):
            if others:
                ErrorPairMaker(others, self.recipe.pairs)
        if self.recipe.stages[0].check_every and not self.parts.validation:
            raise InputError("check_every needs validation subjects; set their share above 0, or check_every to 0")

    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        recipe, seed = self.recipe, self.recipe.trainer.seed
        learnt = self._features("train", self.parts.train, recipe.kept_pairs, say)
        stage, check = recipe.stages[0], None
        if stage.check_every:
            check = ErrorCheck(self._features("validation", self.parts.validation, recipe.checked_pairs, say))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ErrorNetwork(recipe.network)
        network.standardise(*learnt.scales())
        say("training")
        plan = [Stage(ErrorLikelihood(), FeatureCrops(learnt, recipe.crop), check, stage)]
        return network, train(network, plan, recipe.trainer, self.work, on_step, self.request.resume, self.fingerprint)

    def _features(self, part: str, subjects: list[Subject], count: int, say: OnMessage) -> FeatureStore:
        """Of one part's pairs, in the folder of this very training; a killed run goes on with what is there."""
        maker = _Mixed(subjects, self.recipe)
        key = fingerprint(self.recipe, self.parts, NOT_OF_FEATURES)
        folder = self.work / f"{FEATURES}-{key[:16]}" / part
        seed = step_seed(self.recipe.trainer.seed, 0, 0, 0, part)
        store = FeatureStore(folder, maker, count, self.recipe.network, seed)
        store.fill(lambda done, of: say(f"features of {done} of {of} pairs ({part})"))
        return store

    def _figures(self) -> Figures:
        """The figures, and a calibration beside the model where there are two test subjects."""
        if not self.parts.test:
            return {"note": "no test subjects: no figures and no calibration"}
        judged = self._judged()
        figures: Figures = {**pair_figures(judged)}
        known = [each.known for each in judged]
        if len({each.subject for each in known}) < FEWEST_TO_CALIBRATE:
            return {**figures, "note": "one test subject: no calibration"}
        description = f"made pairs of {len(self.parts.test)} test subjects, restyled as in training"
        unit, resolution = "mm" if self.recipe.dims == 3 else "px", RESOLVABLE * self.recipe.network.spacing
        calibrate(known, self.recipe.name, description, unit, resolution).write(self.work / CALIBRATION)
        return figures

    def _judged(self) -> list[Judged]:
        """The test subjects' pairs, by the model as it was stored."""
        recipe, metric = self.recipe, RegistrationError(str(self.work))
        generator = torch.Generator().manual_seed(recipe.trainer.seed + 2)
        makers: list[PairMaker] = ErrorPairMaker(self.parts.test, recipe.pairs).makers
        each = -(-recipe.tested_pairs // len(makers))
        return [one for maker in makers for one in judge_made_pairs(metric, maker, each, generator)]


class _Mixed:
    """Pairs as they are drawn, and pairs that the driver registered, in the recipe's shares."""

    def __init__(self, subjects: list[Subject], recipe: ErrorRecipe):
        self.drawn = ErrorPairMaker(subjects, recipe.pairs)
        self.registered = ResidualPairMaker(ErrorPairMaker(subjects, recipe.registered_pairs or recipe.pairs))
        self.share = recipe.registered

    def __call__(self, count: int, generator: torch.Generator) -> ErrorPairs:
        chosen = float(torch.rand((), generator=generator)) < self.share
        return self.registered(count, generator) if chosen else self.drawn(count, generator)
