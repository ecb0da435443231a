"""From a recipe to a model folder: subjects, audit, training, figures on unseen subjects, card, page."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import regsim.metrics.siamregqc  # noqa: F401  (registers the metric that recipes train)
from regsim.applications.model_card import Figures, fingerprint, input_files, model_card
from regsim.applications.subjects import OnMessage, Parts, divided, read_all, silently
from regsim.errors import InputError
from regsim.evaluation.known_pairs import costs, draw_known_pairs, judge
from regsim.evaluation.results import Provenance
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.checkpoint import CARD, Card, read_card, save_model
from regsim.metrics.siamese import SiameseNetwork
from regsim.misalign.audit import audit, complaint
from regsim.misalign.pairs import PairMaker
from regsim.misalign.sources import Subject
from regsim.output import check_folder, make_folder, now, staged, versions, write_text
from regsim.report import write_training_page
from regsim.training.checks import PairCheck, best_threshold
from regsim.training.objectives import Learner, Objectives
from regsim.training.recipe import Recipe
from regsim.training.state import STATE
from regsim.training.trainer import OnStep, Stage, Trained, train

__all__ = ["TrainRequest", "read_all", "train_model", "train_on"]

AUDIT, RUN = "audit.json", "run.json"
UNFINISHED = "unfinished"
FINISHED = "finished before"
CLASSICAL = ("mse", "ncc", "lncc", "ssim", "nmi", "mind")
LEAST_MISALIGNED = 2.0


@dataclass(frozen=True)
class TrainRequest:
    """What is to be trained, on what.

    Args:
        recipe: see `Recipe`.
        data: folders or manifests; the bundled brain where none is given. Made-up shapes are added as the recipe says.
        test_data: subjects to judge by, in place of a share of `data`.
        folds: 0, or how many trainings, each judged by another part of the subjects.
        resume: go on where a killed run left off, and leave a finished model as it is; else train from the start, and
            replace what is in the folder when the new model is finished.
    """

    recipe: Recipe
    data: Sequence[Path] = ()
    test_data: Sequence[Path] = ()
    folds: int = 0
    resume: bool = True


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
    jobs = [_Job(request, part, place) for part, place in zip(parts, places, strict=True)]
    return [job.run(on_step, say) for job in jobs]


class _Job:
    """One training, from subjects to a finished folder. Making one checks whatever can be checked before any work."""

    def __init__(self, request: TrainRequest, parts: Parts, folder: Path):
        self.request, self.recipe, self.parts, self.folder = request, request.recipe, parts, folder
        self.work = folder / UNFINISHED
        self.maker = PairMaker(parts.train, self.recipe.pairs)
        for others in (parts.validation, parts.test):
            if others:
                self.maker.with_subjects(others)
        _check_teachable(self.recipe, parts)
        self.fingerprint = fingerprint(self.recipe, parts)
        self.finished = self._finished()

    def run(self, on_step: OnStep | None, say: OnMessage) -> Card:
        """Train, unless that was done; what the folder holds is replaced when all of the new model is there."""
        if self.finished is not None:
            say(FINISHED)
            self._tidy()
            return self.finished
        began, started = time.perf_counter(), now()
        make_folder(self.folder)
        if not self.request.resume:
            self._tidy()
        make_folder(self.work)
        say("audit of the pairs")
        notes = self._audit()
        say("training")
        learner, trained = self._train(on_step)
        say("figures on unseen subjects")
        card = model_card(self.recipe, self.parts, trained.seconds, notes)
        save_model(self.work, card, learner.network.state_dict())
        full = card.model_copy(update={"figures": self._figures()})
        card = save_model(self.work, full, learner.network.state_dict())
        write_text(self.work / RUN, self._provenance(started, began).model_dump_json(indent=1))
        write_training_page(self.work)
        self._publish()
        return card

    def _finished(self) -> Card | None:
        """The card of a model that this very training has left; a model of another one is not to be lost.

        Raises:
            InputError: the folder holds another model, and it was not asked to replace it.
        """
        if not self.request.resume or not (self.folder / CARD).is_file():
            return None
        try:
            known = Provenance.model_validate_json((self.folder / RUN).read_bytes()).settings.get("fingerprint")
        except (OSError, ValueError):
            known = None
        if known == self.fingerprint:
            return read_card(self.folder)
        raise InputError(
            f"'{self.folder}' holds a finished model of another recipe or other data; give another -o, or --fresh to "
            "train anew and replace it"
        )

    def _audit(self) -> list[str]:
        """Write the audit; what the card says about one that failed."""
        found = audit(self.maker, seed=self.recipe.trainer.seed)
        write_text(self.work / AUDIT, found.model_dump_json(indent=1))
        if found.passed:
            return []
        if self.recipe.audit == "refuse":
            raise InputError(f"{complaint(found)}; mend the recipe, or train all the same with --set audit=warn")
        return [f"The audit failed: {complaint(found)}."]

    def _train(self, on_step: OnStep | None) -> tuple[Learner, Trained]:
        recipe, seed = self.recipe, self.recipe.trainer.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            terms = [term for stage in recipe.stages for term in stage.objectives]
            learner = Learner(SiameseNetwork(recipe.network), terms)
        check = None
        if self.parts.validation and any(stage.check_every for stage in recipe.stages):
            check = PairCheck(self.maker.with_subjects(self.parts.validation), recipe.checked_pairs, seed + 1)
        stages = [Stage(Objectives(stage.objectives), self.maker, check, stage) for stage in recipe.stages]
        resume = self.request.resume
        return learner, train(learner, stages, recipe.trainer, self.work, on_step, resume, self.fingerprint)

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

    def _provenance(self, started: str, began: float) -> Provenance:
        request, trainer = self.request, self.recipe.trainer
        return Provenance(
            command="train",
            settings={"recipe": self.recipe.to_json(), "folds": request.folds, "fingerprint": self.fingerprint},
            seed=trainer.seed,
            device=trainer.device,
            threads=torch.get_num_threads(),
            versions=versions(),
            inputs=input_files(request.data, request.test_data, self.parts),
            started=started,
            seconds=time.perf_counter() - began,
        )

    def _publish(self) -> None:
        """Move the finished model into the folder, the card last."""
        with staged(self.folder, last=(CARD,)) as part:
            for file in self.work.iterdir():
                if file.is_file() and file.name != STATE and not file.name.startswith("."):
                    shutil.copy2(file, part / file.name)
        self._tidy()

    def _tidy(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


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
