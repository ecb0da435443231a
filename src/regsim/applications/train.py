"""From a recipe to a model folder: subjects, audit, training, figures on unseen subjects, card, page."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from regsim.errors import InputError
from regsim.evaluation.known_pairs import draw_known_pairs, judge
from regsim.evaluation.results import InputFile, Provenance
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.checkpoint import Card, DataSource, Subjects, save_model
from regsim.metrics.siamese import SiameseNetwork
from regsim.misalign.audit import Audit, audit, complaint
from regsim.misalign.pairs import PairMaker
from regsim.misalign.sources import Subject, bundled_subject, read_subjects, shape_subjects
from regsim.output import check_folder, make_folder, now, sha256, size_in_bytes, versions, write_text
from regsim.report import write_training_page
from regsim.training.checks import PairCheck
from regsim.training.folds import Fold, split_by_subject
from regsim.training.objectives import Learner, Objectives
from regsim.training.recipe import Recipe
from regsim.training.state import STATE
from regsim.training.trainer import OnStep, Stage, Trained, train

AUDIT, RUN = "audit.json", "run.json"
CLASSICAL = ("mse", "ncc", "lncc", "ssim", "nmi", "mind")
LEAST_MISALIGNED = 2.0
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class TrainRequest:
    """What is to be trained, on what.

    Args:
        recipe: see `Recipe`.
        data: folders or manifests; the bundled brain where none is given. Made-up shapes are added as the recipe says.
        test_data: subjects to judge by, in place of a share of `data`.
        folds: 0, or how many trainings, each judged by another part of the subjects.
        resume: go on where a killed run left off.
    """

    recipe: Recipe
    data: Sequence[Path] = ()
    test_data: Sequence[Path] = ()
    folds: int = 0
    resume: bool = True


@dataclass(frozen=True)
class _Parts:
    """Subjects by their part. Made-up ones only train."""

    train: list[Subject]
    validation: list[Subject]
    test: list[Subject]


def train_model(
    request: TrainRequest, folder: Path, on_step: OnStep | None = None, say: OnMessage | None = None
) -> list[Card]:
    """Train, judge, and fill the model folder (one subfolder a fold where folds are asked for).

    Writes `model.safetensors`, `card.json`, `curves.csv`, `audit.json`, `run.json` and `report.html`. A run that was killed
    goes on where it was; the audit refuses pairs that give their answer away before any training.

    Raises:
        RegsimError: bad input, too few subjects, a pair maker that leaks, a training that had to stop.
    """
    check_folder(folder)
    subjects = read_all(request.data, request.recipe)
    test = read_all(request.test_data, request.recipe)
    return train_on(subjects, test, request, folder, on_step, say)


def read_all(places: Sequence[Path], recipe: Recipe) -> list[Subject]:
    """The subjects of several folders or manifests.

    Raises:
        InputError: two of one name.
    """
    found = [subject for place in places for subject in read_subjects(place, recipe.source)]
    names = [subject.name for subject in found]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"two sets have a subject '{double}'; name them apart in a manifest")
    return found


def train_on(
    subjects: Sequence[Subject],
    test: Sequence[Subject],
    request: TrainRequest,
    folder: Path,
    on_step: OnStep | None = None,
    say: OnMessage | None = None,
) -> list[Card]:
    """`train_model` with subjects that were read before; `test` judges in place of a share of `subjects`."""
    recipe = request.recipe
    twice = {subject.person for subject in subjects} & {subject.person for subject in test}
    if twice:
        raise InputError(f"subject '{min(twice)}' is in both --data and --test-data; a test needs unseen subjects")
    cards = []
    for number, fold in enumerate(_split(subjects, bool(test), request)):
        place = folder / f"fold-{number + 1}" if request.folds else folder
        cards.append(_train_fold(request, _parts(recipe, subjects, test, fold), place, on_step, say))
    return cards


def _split(subjects: Sequence[Subject], test_given: bool, request: TrainRequest) -> list[Fold]:
    if not subjects:
        return [Fold((), (), ())]
    train, validation, test = request.recipe.shares
    shares = (train + test, validation, 0.0) if test_given else (train, validation, test)
    people = [subject.person for subject in subjects]
    return split_by_subject(people, shares, request.folds, request.recipe.trainer.seed)


def _parts(recipe: Recipe, real: Sequence[Subject], given: Sequence[Subject], fold: Fold) -> _Parts:
    source = recipe.source
    made = shape_subjects(source.shapes, source.shape_size, recipe.pairs.dims, recipe.trainer.seed)
    if not real:
        if len(made) < 2:
            raise InputError("nothing to train on: give --data, or source.shapes above 1")
        brain = bundled_subject(source)
        return _Parts(made, [brain], list(given) or [brain])

    def of(names: Sequence[str]) -> list[Subject]:
        return [subject for subject in real if subject.person in names]

    return _Parts(of(fold.train) + made, of(fold.validation), list(given) or of(fold.test))


def _train_fold(
    request: TrainRequest, parts: _Parts, folder: Path, on_step: OnStep | None, say: OnMessage | None
) -> Card:
    recipe, began, started = request.recipe, time.perf_counter(), now()
    make_folder(folder)
    tell = say or (lambda _text: None)
    maker = PairMaker(parts.train, recipe.pairs)
    tell("audit of the pairs")
    found = audit(maker, seed=recipe.trainer.seed)
    write_text(folder / AUDIT, found.model_dump_json(indent=1))
    if not found.passed and recipe.audit == "refuse":
        raise InputError(f"{complaint(found)}; mend the recipe, or train all the same with --set audit=warn")
    tell("training")
    trained, learner = _train(recipe, maker, parts, folder, on_step, request)
    tell("figures on unseen subjects")
    card = save_model(folder, _card(recipe, parts, found, {}, trained), learner.network.state_dict())
    figures = _figures(recipe, parts, folder, learner)
    card = save_model(folder, _card(recipe, parts, found, figures, trained), learner.network.state_dict())
    (folder / STATE).unlink(missing_ok=True)
    write_text(folder / RUN, _provenance(request, began, started).model_dump_json(indent=1))
    write_training_page(folder)
    return card


def _train(
    recipe: Recipe, maker: PairMaker, parts: _Parts, folder: Path, on_step: OnStep | None, request: TrainRequest
) -> tuple[Trained, Learner]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.trainer.seed)
        terms = [term for stage in recipe.stages for term in stage.objectives]
        learner = Learner(SiameseNetwork(recipe.network), terms)
    check = (
        PairCheck(maker.with_subjects(parts.validation), recipe.checked_pairs, recipe.trainer.seed + 1)
        if parts.validation
        else None
    )
    stages = [Stage(Objectives(stage.objectives), maker, check, stage) for stage in recipe.stages]
    return train(learner, stages, recipe.trainer, folder, on_step, request.resume, _fingerprint(recipe, parts)), learner


def _fingerprint(recipe: Recipe, parts: _Parts) -> str:
    """What the pairs are made of: settings, names, and a sum of every volume."""
    sums = {
        subject.name: [float(volume.double().sum()) for volume in subject.images.values()] for subject in parts.train
    }
    return json.dumps([recipe.pairs.model_dump(mode="json"), recipe.source.model_dump(mode="json"), sums])


def _figures(
    recipe: Recipe, parts: _Parts, folder: Path, learner: Learner
) -> dict[str, float | str | tuple[float, ...]]:
    """What the card says, measured with the model as it was stored, on test subjects."""
    if not parts.test:
        return {"note": "no test subjects: no figures"}
    metric = load_metric(recipe.metric, model=str(folder))
    maker = PairMaker(parts.test, recipe.pairs)
    least = LEAST_MISALIGNED * recipe.pairs.spacing
    pairs = draw_known_pairs(maker, recipe.tested_pairs, recipe.trainer.seed + 2, least)
    threshold = _threshold(recipe, parts, metric, least)
    figures: dict[str, float | str | tuple[float, ...]] = {"threshold": threshold, **judge(metric, pairs, threshold)}
    classical: list[AbstractMetric] = [load_metric(name) for name in CLASSICAL]
    ranks = {other.name: float(str(judge(other, pairs)["spearman"])) for other in classical}
    best = max(ranks, key=lambda name: ranks[name])
    return {**figures, "best_classical": best, "best_classical_spearman": ranks[best]}


def _threshold(recipe: Recipe, parts: _Parts, metric: AbstractMetric, least: float) -> float:
    """Above which cost a pair is called misaligned: the best one on validation pairs (training pairs where there are none)."""
    from regsim.evaluation.known_pairs import costs
    from regsim.training.checks import best_threshold

    maker = PairMaker(parts.validation or parts.train, recipe.pairs)
    pairs = draw_known_pairs(maker, recipe.checked_pairs, recipe.trainer.seed + 3, least).sorted
    return best_threshold(costs(metric, pairs), pairs.misaligned)[1]


def _card(
    recipe: Recipe, parts: _Parts, found: Audit, figures: dict[str, float | str | tuple[float, ...]], trained: Trained
) -> Card:
    sets = {subject.data_set: subject.licence for subject in (*parts.train, *parts.validation, *parts.test)}
    used = (
        DataSource(name=name or "unnamed", licence=licence or "not stated") for name, licence in sorted(sets.items())
    )
    made = sum(subject.data_set == "made-up shapes" for subject in parts.train)
    names = [subject.name for subject in parts.train if subject.data_set != "made-up shapes"]
    notes = [
        recipe.description,
        f"Trained in {trained.seconds:.0f} s, on {made} made-up anatomies beside the subjects named.",
    ]
    if not found.passed:
        notes.append(f"The audit failed: {complaint(found)}.")
    return Card(
        name=recipe.name,
        metric=recipe.metric,
        network=recipe.network.model_dump(mode="json"),
        settings=recipe.model_dump(mode="json", exclude={"network"}),
        data=tuple(used),
        subjects=Subjects(
            train=tuple(names),
            validation=tuple(subject.name for subject in parts.validation),
            test=tuple(subject.name for subject in parts.test),
        ),
        versions=versions(),
        seed=recipe.trainer.seed,
        created=now(),
        figures=figures,
        notes=tuple(note for note in notes if note),
    )


def _provenance(request: TrainRequest, began: float, started: str) -> Provenance:
    places = [("data", place) for place in request.data] + [("test data", place) for place in request.test_data]
    return Provenance(
        command="train",
        settings={"recipe": request.recipe.to_json(), "folds": request.folds},
        seed=request.recipe.trainer.seed,
        device=request.recipe.trainer.device,
        threads=torch.get_num_threads(),
        versions=versions(),
        inputs=[
            InputFile(role=role, name=place.name, sha256=sha256(place), size=size_in_bytes(place))
            for role, place in places
        ],
        started=started,
        seconds=time.perf_counter() - began,
    )
