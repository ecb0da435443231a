"""Splits by subject: no person, animal or specimen is in two parts, so that figures are those of unseen subjects."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from regsim.errors import InputError, SettingsError

Shares = tuple[float, float, float]


@dataclass(frozen=True)
class Fold:
    """Names of subjects, sorted, in no two parts at once. `validation` chooses the network, `test` judges it."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_by_subject(
    subjects: Iterable[str], shares: Shares = (0.7, 0.15, 0.15), folds: int = 0, seed: int = 0
) -> list[Fold]:
    """Split into train, validation and test.

    Args:
        subjects: the subject of every image; each name counts once.
        shares: of train, validation and test, adding up to 1; a part with a share above 0 gets one subject at least.
        folds: 0 for one split by `shares`; else that many: the i-th tests on part i, validates on part i + 1, and trains
            on the rest, so that every subject is tested once.
        seed: of the order of the subjects.

    Raises:
        InputError: too few subjects.
        SettingsError: shares that do not add up to 1, or fewer than three folds.

    Example:
        >>> [fold] = split_by_subject([f"s{number}" for number in range(10)], seed=1)
        >>> len(fold.train), len(fold.validation), len(fold.test)
        (6, 2, 2)
        >>> [len(fold.test) for fold in split_by_subject("abcdefg", folds=3)]
        [3, 2, 2]
    """
    names = sorted(set(subjects))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    mixed = [names[place] for place in order]
    return _folds(mixed, folds) if folds else [_one_split(mixed, shares)]


def _one_split(names: list[str], shares: Shares) -> Fold:
    if min(shares) < 0 or shares[0] == 0 or abs(sum(shares) - 1) > 1e-6:
        raise SettingsError(f"shares {shares}: expected train (above 0), validation and test that add up to 1")
    counts = [max(1, round(share * len(names))) if share else 0 for share in shares[1:]]
    while sum(counts) >= len(names) and max(counts) > 1:
        counts[counts.index(max(counts))] -= 1
    if len(names) - sum(counts) < 1:
        raise _too_few(names, 1 + sum(share > 0 for share in shares[1:]), "set the shares of validation and test to 0")
    test, validation = names[: counts[1]], names[counts[1] : sum(counts)]
    return _fold(names[sum(counts) :], validation, test)


def _folds(names: list[str], folds: int) -> list[Fold]:
    if folds < 3:
        raise SettingsError(
            f"folds {folds}: expected 3 or more (one part each for validation and test, the rest to train)"
        )
    if len(names) < folds:
        raise _too_few(names, folds, "ask for fewer folds")
    parts = [names[first::folds] for first in range(folds)]
    made = []
    for number in range(folds):
        after = (number + 1) % folds
        rest = [name for place, part in enumerate(parts) if place not in (number, after) for name in part]
        made.append(_fold(rest, parts[after], parts[number]))
    return made


def _fold(train: list[str], validation: list[str], test: list[str]) -> Fold:
    return Fold(tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


def _too_few(names: list[str], needed: int, otherwise: str) -> InputError:
    came = f"all images are of one subject ('{names[0]}')" if len(names) == 1 else f"there are {len(names)} subjects"
    return InputError(
        f"{came}, but a split by subject needs {needed} or more: add images of other subjects, or {otherwise} "
        "(no figures on unseen subjects then)"
    )
