"""Whom a training learns from, whom it is chosen by, and whom it is judged on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from regsim.errors import InputError
from regsim.misalign.sources import Subject, bundled_subject, read_subjects, shape_subjects
from regsim.training.folds import split_by_subject
from regsim.training.recipe import AnyRecipe

MADE_VALIDATION = 0.1
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class Parts:
    """Subjects by their part. Made-up ones train, and choose only where no real ones do; none is in two parts."""

    train: list[Subject]
    validation: list[Subject]
    test: list[Subject]

    @property
    def all(self) -> list[Subject]:
        """Those of all parts."""
        return [*self.train, *self.validation, *self.test]


def silently(_text: str) -> None:
    """Where nobody wants to hear."""


def read_all(places: Sequence[Path], recipe: AnyRecipe, say: OnMessage = silently) -> list[Subject]:
    """The subjects of several folders or manifests; `say` hears of each before it is read.

    Raises:
        InputError: two of one name.
    """
    found: list[Subject] = []
    for place in places:
        found += read_subjects(place, recipe.source, lambda name: say(f"reading {name}"))
    names = [subject.name for subject in found]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"two sets have a subject '{double}'; name them apart in a manifest")
    return found


def divided(subjects: Sequence[Subject], test: Sequence[Subject], recipe: AnyRecipe, folds: int = 0) -> list[Parts]:
    """One division, or one for each fold.

    Args:
        subjects: to divide by the recipe's shares; without any, made-up ones train and the bundled brain judges.
        test: judge in place of a share of `subjects`.
        recipe: shares, seed, made-up anatomies.
        folds: 0, or how many trainings, each judged by another part of the subjects.

    Raises:
        InputError: too few subjects, one person to learn from and to judge by, folds and test subjects together.
    """
    twice = {subject.person for subject in subjects} & {subject.person for subject in test}
    if twice:
        raise InputError(f"subject '{min(twice)}' is in both --data and --test-data; a test needs unseen subjects")
    if folds and (test or not subjects):
        raise InputError(f"--folds {folds} divides the subjects of --data, and goes without --test-data")
    source = recipe.source
    made = shape_subjects(source.shapes, source.shape_size, recipe.dims, recipe.trainer.seed)
    if not subjects:
        return [_made_up(made, list(test) or [bundled_subject(source)])]
    train, validation, judging = recipe.shares
    shares = (train + judging, validation, 0.0) if test else recipe.shares
    people = [subject.person for subject in subjects]

    def of(names: Sequence[str]) -> list[Subject]:
        return [subject for subject in subjects if subject.person in names]

    return [
        Parts(of(fold.train) + made, of(fold.validation), list(test) or of(fold.test))
        for fold in split_by_subject(people, shares, folds, recipe.trainer.seed)
    ]


def _made_up(made: list[Subject], test: list[Subject]) -> Parts:
    if len(made) < 2:
        raise InputError("nothing to train on: give --data, or set source.shapes to 2 or more made-up anatomies")
    choosing = max(1, round(MADE_VALIDATION * len(made)))
    return Parts(made[choosing:], made[:choosing], test)
