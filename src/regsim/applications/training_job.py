"""What trainings of all kinds share: a model folder that is filled all at once, after an audit, with figures and a page."""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from regsim.applications.model_card import Figures, fingerprint, input_files, model_card
from regsim.applications.subjects import OnMessage, Parts
from regsim.errors import InputError
from regsim.evaluation.results import Provenance
from regsim.metrics.checkpoint import CARD, Card, read_card, save_model
from regsim.misalign.audit import Audit, audit, complaint
from regsim.misalign.pairs import PairMaker
from regsim.output import make_folder, now, staged, versions, write_text
from regsim.report import write_training_page
from regsim.training.recipe import AnyRecipe
from regsim.training.state import STATE
from regsim.training.trainer import OnStep, Trained

AUDIT, RUN = "audit.json", "run.json"
UNFINISHED = "unfinished"
FINISHED = "finished before"


@dataclass(frozen=True)
class TrainRequest:
    """What is to be trained, on what.

    Args:
        recipe: see `Recipe`.
        data: folders or manifests; the bundled brain where none is given. Made-up shapes are added as the recipe says.
        test_data: subjects to judge by, in place of a share of `data`.
        pairs: a list of roughly aligned pairs, for recipes that learn from such, in place of `data`.
        folds: 0, or how many trainings, each judged by another part of the subjects.
        resume: go on where a killed run left off, and leave a finished model as it is; else train from the start, and
            replace what is in the folder when the new model is finished.
    """

    recipe: AnyRecipe
    data: Sequence[Path] = ()
    test_data: Sequence[Path] = ()
    pairs: Path | None = None
    folds: int = 0
    resume: bool = True


class TrainingJob(ABC):
    """One training, from subjects to a finished folder. Making one checks whatever can be checked before any work.

    `pairs`: made from the training subjects; `audited` of them are drawn for the audit. `kept_folders`: of the work, that belong
    to the finished model.
    """

    audited: ClassVar[int] = 480
    kept_folders: ClassVar[tuple[str, ...]] = ()
    pairs: PairMaker

    def __init__(self, request: TrainRequest, parts: Parts, folder: Path):
        self.request, self.parts, self.folder = request, parts, folder
        self.work = folder / UNFINISHED
        self._prepare()
        self.fingerprint = fingerprint(request.recipe, parts)
        self.finished = self._finished()

    @abstractmethod
    def _prepare(self) -> None:
        """Make `pairs`, and refuse subjects that this recipe cannot learn from."""

    @abstractmethod
    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        """The network that is to be stored, and how its training went."""

    @abstractmethod
    def _figures(self) -> Figures:
        """What the card says, measured with the model as it lies in `work`, on test subjects."""

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
        network, trained = self._train(on_step, say)
        say("figures on unseen subjects")
        card = model_card(self.request.recipe, self.parts, trained.seconds, notes)
        save_model(self.work, card, network.state_dict())
        full = card.model_copy(update={"figures": self._figures()})
        card = save_model(self.work, full, network.state_dict())
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
        found = audit(self.pairs, self.audited, seed=self.request.recipe.trainer.seed)
        write_text(self.work / AUDIT, found.model_dump_json(indent=1))
        return self._complaints(found)

    def _complaints(self, found: Audit) -> list[str]:
        """What the card says about an audit; one that failed is refused where the recipe says so."""
        if found.passed:
            return []
        if self.request.recipe.audit == "refuse":
            raise InputError(f"{complaint(found)}; mend the recipe, or train all the same with --set audit=warn")
        return [f"The audit failed: {complaint(found)}."]

    def _provenance(self, started: str, began: float) -> Provenance:
        request, trainer = self.request, self.request.recipe.trainer
        return Provenance(
            command="train",
            settings={"recipe": self.request.recipe.to_json(), "folds": request.folds, "fingerprint": self.fingerprint},
            seed=trainer.seed,
            device=trainer.device,
            threads=torch.get_num_threads(),
            versions=versions(),
            inputs=input_files(self._places, request.test_data, self.parts),
            started=started,
            seconds=time.perf_counter() - began,
        )

    @property
    def _places(self) -> Sequence[Path]:
        """What is learnt from."""
        return self.request.data if self.request.pairs is None else (self.request.pairs,)

    def _publish(self) -> None:
        """Move the finished model into the folder, the card last."""
        with staged(self.folder, last=(CARD,)) as part:
            for file in self.work.iterdir():
                if file.is_file() and file.name != STATE and not file.name.startswith("."):
                    shutil.copy2(file, part / file.name)
            for name in self.kept_folders:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                shutil.copytree(self.work / name, part / name)
        self._tidy()

    def _tidy(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
