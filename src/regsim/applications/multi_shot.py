"""A training of `patch_likelihood`, shot by shot: what one shot has learnt brings the pairs nearer for the next one."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from regsim.applications.model_card import Figures, model_card
from regsim.applications.pair_job import CLASSICAL
from regsim.applications.rough_list import check_room, read_rough_pairs
from regsim.applications.subjects import OnMessage, Parts, divided, read_all
from regsim.applications.training_job import AUDIT, TrainingJob, TrainRequest
from regsim.errors import InputError, RegsimError, SettingsError
from regsim.evaluation.accuracy import foreground_points, true_errors
from regsim.evaluation.known_pairs import best_of, draw_known_pairs, judge, least_misaligned
from regsim.evaluation.response import Response, responses
from regsim.evaluation.shot_rows import PAIRS, SHOTS, Part, ResponseRow, RoughPairRow, ShotRow, ShotRows, pairs_table
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.checkpoint import save_model
from regsim.metrics.patch_network import PatchNetwork, PatchNetworks
from regsim.misalign.audit import Audit, audit_pairs
from regsim.misalign.pairs import PairMaker, joined
from regsim.misalign.patch_pairs import PatchPairMaker
from regsim.misalign.rough_pairs import ImagePair
from regsim.output import make_folder, write_text
from regsim.registration.driver import register
from regsim.registration.schedule import Schedule
from regsim.training.log import CurveRow, write_curves
from regsim.training.patch_lesson import PatchCheck, PatchCrossEntropy
from regsim.training.patch_recipe import MultiShotRecipe, Shot
from regsim.training.trainer import OnStep, Stage, Trained, train
from regsim.transforms import Composite, Rigid, Transform, write_transform

STEP_SHARE = 0.25
ANSWERING = 4
STATE, TRANSFORMS = "shot.json", "transforms"
Alignments = dict[str, Rigid]


class ShotState(BaseModel):
    """What a finished shot leaves for the next one, and for a run that goes on after a pause."""

    row: ShotRow
    matrices: dict[str, list[list[float]]]
    moved: dict[str, float]
    why: dict[str, str]


def multi_shot_job(request: TrainRequest, folder: Path, say: OnMessage) -> "MultiShotJob":
    """Read the pairs, and whom to judge by.

    Raises:
        SettingsError: no list of pairs, or what other recipes learn from.
        InputError: a list that cannot be read, or without pairs of two people.
    """
    recipe = request.recipe
    assert isinstance(recipe, MultiShotRecipe)
    if request.pairs is None or request.data or request.folds:
        given = "no --pairs" if request.pairs is None else "--data" if request.data else "--folds"
        raise SettingsError(f"recipe '{recipe.name}' learns from roughly aligned pairs, --pairs LIST.csv; got {given}")
    pairs, rows, starts = read_rough_pairs(request.pairs, recipe, say)
    [parts] = divided([pair.subject for pair in pairs], read_all(request.test_data, recipe, say), recipe)
    return MultiShotJob(request, parts, folder, pairs, rows, starts)


class MultiShotJob(TrainingJob):
    """A multi-shot training.

    Args:
        request, parts, folder: see `TrainingJob`; the subjects of `parts` are the pairs.
        images: the pairs.
        rows: of those that could not be used.
        starts: where the list names them, by the pairs' names: what `images` were carried by already.
    """

    audited = 400
    kept_folders = (TRANSFORMS,)

    def __init__(
        self,
        request: TrainRequest,
        parts: Parts,
        folder: Path,
        images: Sequence[ImagePair],
        rows: Sequence[RoughPairRow],
        starts: dict[str, Transform],
    ):
        names = {subject.name for subject in parts.train}
        self.learners = [pair for pair in images if pair.full_name in names]
        self.checked = [pair for pair in images if pair.full_name not in names]
        self.rows, self.starts = list(rows), starts
        super().__init__(request, parts, folder)

    @property
    def recipe(self) -> MultiShotRecipe:
        """Of this kind."""
        assert isinstance(self.request.recipe, MultiShotRecipe)
        return self.request.recipe

    @property
    def images(self) -> list[ImagePair]:
        """All pairs that can be used."""
        return [*self.learners, *self.checked]

    def _prepare(self) -> None:
        if self.recipe.learning.check_every and not self.checked:
            raise InputError("check_every needs validation pairs; set their share above 0, or check_every to 0")
        people = len({pair.person for pair in self.learners})
        if self.recipe.cross_fitted > people:
            raise InputError(
                f"cross_fitted {self.recipe.cross_fitted}: the training pairs are of {people} "
                f"{'person' if people == 1 else 'people'}; divide into fewer parts, or 0"
            )

    def _audit(self) -> list[str]:
        """Of the first shot's patches, and of the first ones whose different places are near; one that failed is written."""
        first, *others = self.recipe.shots
        near = next((shot for shot in others if shot.reach), None)
        found = min((self._audited(shot) for shot in (first, near) if shot is not None), key=lambda audit: audit.passed)
        write_text(self.work / AUDIT, found.model_dump_json(indent=1))
        return self._complaints(found)

    def _audited(self, shot: Shot) -> Audit:
        generator = torch.Generator().manual_seed(self.recipe.trainer.seed)
        maker = self._maker(self.learners, shot, {})
        drawn = joined([maker(min(64, self.audited - at), generator).pairs for at in range(0, self.audited, 64)])
        return audit_pairs(drawn, self.recipe.trainer.seed, elsewhere=True)

    def _maker(self, pairs: Sequence[ImagePair], shot: Shot, alignments: Alignments) -> PatchPairMaker:
        rough = [pair.rough(shot.spacing, alignments.get(pair.name)) for pair in pairs]
        return PatchPairMaker(rough, self.recipe.network.patch, self.recipe.patches_of(shot))

    # --- the shots --------------------------------------------------------------------------------------------------

    def _train(self, on_step: OnStep | None, say: OnMessage) -> tuple[nn.Module, Trained]:
        say("training")
        recipe = self.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.trainer.seed)
            whole = PatchNetworks(recipe.network)
        alignments = {pair.name: Rigid(pair.fixed.ndim, pair.fixed.grid.centre) for pair in self.images}
        states: list[ShotState] = []
        curves: list[CurveRow] = []
        seconds = 0.0
        for number, shot in enumerate(recipe.shots):
            if self._settled(states, shot):
                states.append(_skipped(number, shot, self.learners[0].fixed.grid.unit, alignments))
                continue
            say(f"shot {number + 1} of {len(recipe.shots)}: learning at {shot.spacing:g}")
            trained = self._taught(number, shot, alignments, self.learners, on_step)
            self._put(whole, shot, trained)
            say(f"shot {number + 1} of {len(recipe.shots)}: registering the pairs")
            states.append(self._finished_shot(number, shot, whole, trained, alignments))
            alignments = {name: _rigid(matrix, alignments[name]) for name, matrix in states[-1].matrices.items()}
            name = f"shot {number + 1}: {trained.curves[-1].name}"
            curves += [replace(row, stage=number, name=name, seconds=row.seconds + seconds) for row in trained.curves]
            seconds += trained.seconds
        self._write(states, curves, alignments)
        return whole.half(), Trained(whole, curves, [], seconds)  # stored in half precision: smaller, as good

    def _settled(self, states: Sequence[ShotState], shot: Shot) -> bool:
        """Whether the pairs have come to rest at this spacing."""
        last = next((state.row for state in reversed(states) if not state.row.skipped), None)
        return last is not None and last.spacing == shot.spacing and last.moved < self.recipe.settled

    def _taught(
        self,
        number: int,
        shot: Shot,
        alignments: Alignments,
        learners: Sequence[ImagePair],
        on_step: OnStep | None,
        part: str = "",
    ) -> Trained:
        """A fresh network, taught on these pairs as they lie now; `part` tells its folder from the shot's own."""
        recipe, folder = self.recipe, make_folder(self._folder(number) / part)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.trainer.seed + number)
            network = PatchNetwork(recipe.network)
        check = None
        if recipe.learning.check_every:
            maker = self._maker(self.checked, shot, alignments)
            check = PatchCheck(maker, recipe.checked_patches, recipe.trainer.seed + 1)
        settings = recipe.trainer.model_copy(update={"seed": recipe.trainer.seed + number})
        stage = Stage(PatchCrossEntropy(), self._maker(learners, shot, alignments), check, recipe.learning)

        def told(row: CurveRow) -> None:
            if on_step is not None:
                on_step(replace(row, stage=number))

        lie = hashlib.sha256(str([way.homogeneous().tolist() for way in alignments.values()]).encode()).hexdigest()
        return train(network, [stage], settings, folder, told, self.request.resume, f"{self.fingerprint} {lie}")

    def _folder(self, number: int) -> Path:
        return self.work / f"shot-{number + 1}"

    def _finished_shot(
        self, number: int, shot: Shot, whole: PatchNetworks, trained: Trained, alignments: Alignments
    ) -> ShotState:
        """Diagnose the metric, and register all pairs; a shot that was finished before a pause is read.

        Raises:
            InputError: its file is damaged.
        """
        state_file = self._folder(number) / STATE
        if state_file.is_file() and self.request.resume:
            return _read_shot(state_file)
        metric = self._metric(whole, self._folder(number))
        answering = [(pair.fixed, pair.moving, alignments[pair.name]) for pair in (self.checked or self.learners)]
        answers = responses(metric, answering[:ANSWERING], shot.spacing)
        found, moved, why = dict(alignments), dict.fromkeys(alignments, 0.0), {}
        seconds = trained.seconds
        for part, pairs in enumerate(self._parts()):
            own = metric
            if part:
                rest = [pair for pair in self.learners if pair not in pairs]
                taught = self._taught(number, shot, alignments, rest, None, f"part-{part}")
                seconds += taught.seconds
                other = copy.deepcopy(whole)
                self._put(other, shot, taught)
                own = self._metric(other, self._folder(number) / f"part-{part}")
            for pair in pairs:
                try:
                    way = self._registered(pair, shot, own, alignments[pair.name])
                except RegsimError as problem:
                    why[pair.name] = str(problem)
                    continue
                found[pair.name] = way
                moved[pair.name] = float(true_errors(way, alignments[pair.name], foreground_points(pair.fixed)).mean())
        kept = {best.step for best in trained.best}
        accuracy = next((row.check["accuracy"] for row in trained.curves if row.step in kept), None)
        row = ShotRow(
            **_of_recipe(number, shot, self.learners[0].fixed.grid.unit),
            accuracy=accuracy,
            moved=median([moved[pair.name] for pair in self.learners]),
            kept=len(why),
            seconds=seconds,
            responses=tuple(_row(answer) for answer in answers),
        )
        matrices = {name: way.homogeneous().tolist() for name, way in found.items()}
        state = ShotState(row=row, matrices=matrices, moved=moved, why=why)
        write_text(state_file, state.model_dump_json())
        return state

    def _parts(self) -> list[list[ImagePair]]:
        """First the pairs that the shot's own network registers, then those of each part of the people, if divided."""
        count = self.recipe.cross_fitted
        if not count:
            return [self.images]
        people = sorted({pair.person for pair in self.learners})
        part = {person: place % count for place, person in enumerate(people)}
        return [self.checked, *([p for p in self.learners if part[p.person] == each] for each in range(count))]

    def _put(self, whole: PatchNetworks, shot: Shot, trained: Trained) -> None:
        """A shot's network among all of them."""
        whole.levels[self.recipe.network.spacings.index(shot.spacing)].load_state_dict(trained.network.state_dict())

    def _metric(self, whole: PatchNetworks, folder: Path) -> AbstractMetric:
        """Networks as a metric, by a model that is left in a folder."""
        save_model(folder, model_card(self.recipe, self.parts, 0.0, []), whole.state_dict())
        return load_metric(self.recipe.metric, model=str(folder), patches=self.recipe.patches_compared)

    def _registered(self, pair: ImagePair, shot: Shot, metric: AbstractMetric, before: Rigid) -> Rigid:
        """A pair from where it lies.

        Raises:
            RegsimError: the registration fails, or leaves no room for patches.
        """
        way = register(pair.fixed, pair.moving, metric, schedule=plan_of(shot, metric.name), initial=before).transform
        assert isinstance(way, Rigid)
        check_room(pair, shot, self.recipe, way)
        return way

    def _write(self, states: Sequence[ShotState], curves: Sequence[CurveRow], alignments: Alignments) -> None:
        """Curves, shots, pairs, and where each pair ended."""
        write_curves(curves, self.work)
        write_text(self.work / SHOTS, ShotRows(shots=tuple(state.row for state in states)).model_dump_json())
        rows = []
        for pair in self.images:
            moved = tuple(None if state.row.skipped else state.moved[pair.name] for state in states)
            why = [f"shot {state.row.number}: {state.why[pair.name]}" for state in states if pair.name in state.why]
            part: Part = "training" if pair in self.learners else "validation"
            rows.append(RoughPairRow(name=pair.name, subject=pair.person, part=part, moved=moved, why="; ".join(why)))
        write_text(self.work / PAIRS, pairs_table([*rows, *self.rows], len(states)))
        folder = make_folder(self.work / TRANSFORMS)
        for name, way in alignments.items():
            start = self.starts.get(name)
            write_transform(way if start is None else Composite([start, way]), folder / f"{name}.txt")

    # --- the card ---------------------------------------------------------------------------------------------------

    def _figures(self) -> Figures:
        """Pairs of known misalignment of the test subjects; see `judge`."""
        recipe, parts = self.recipe, self.parts
        if not parts.test:
            return {"note": "no test subjects: no figures"}
        metric = load_metric(recipe.metric, model=str(self.work)).with_spacing((recipe.tested.spacing,) * recipe.dims)
        least = least_misaligned(recipe.tested)
        maker = PairMaker(parts.test, recipe.tested)
        pairs = draw_known_pairs(maker, recipe.tested_pairs, recipe.trainer.seed + 2, least)
        best, order = best_of(CLASSICAL, pairs)
        return {**judge(metric, pairs), "best_classical": best, "best_classical_spearman": order}


def plan_of(shot: Shot, metric: str) -> Schedule:
    """How a shot registers: rigid, one level, from where the pair lies."""
    level = {"spacing": shot.spacing, "steps": shot.steps, "step": STEP_SHARE * shot.spacing}
    stage = {"transform": "rigid", "metric": metric, "optimiser": shot.optimiser, "levels": [level]}
    return Schedule.checked({"stages": [stage], "start": "identity", "smoothing": 0.0})


def _read_shot(path: Path) -> ShotState:
    try:
        return ShotState.model_validate_json(path.read_bytes())
    except ValidationError:
        raise InputError(f"'{path}' is damaged, or of another version; train from the start by --fresh") from None


def _rigid(matrix: list[list[float]], like: Rigid) -> Rigid:
    """From a homogeneous matrix, about the same centre."""
    way = Rigid(like.ndim, like.centre.numpy())
    way.set_homogeneous(torch.tensor(matrix, dtype=torch.float64))
    return way


def _row(answer: Response) -> ResponseRow:
    return ResponseRow(
        motion=answer.motion,
        places=tuple(round(float(at), 4) for at in answer.places),
        costs=tuple(round(float(cost), 5) for cost in answer.costs),
        centre=answer.centre,
        width=answer.width,
        modes=answer.modes,
    )


def _of_recipe(number: int, shot: Shot, unit: str) -> dict[str, Any]:
    """What a shot's row tells of its settings."""
    told = shot.model_dump(include={"spacing", "dither", "apart", "reach", "exchange"})
    return {"number": number + 1, "unit": unit, **told}


def _skipped(number: int, shot: Shot, unit: str, alignments: Alignments) -> ShotState:
    row = ShotRow(**_of_recipe(number, shot, unit), skipped=True)
    matrices = {name: way.homogeneous().tolist() for name, way in alignments.items()}
    return ShotState(row=row, matrices=matrices, moved=dict.fromkeys(alignments, 0.0), why={})
