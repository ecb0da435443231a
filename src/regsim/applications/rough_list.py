"""The pairs that a multi-shot training learns from: read one by one, and what cannot be used is told, not fatal."""

from dataclasses import replace
from pathlib import Path

import torch

from regsim.applications.files import read_pair
from regsim.applications.pairs_file import PairFiles, read_pairs_file
from regsim.applications.subjects import OnMessage
from regsim.errors import InputError, RegsimError
from regsim.evaluation.shot_rows import RoughPairRow
from regsim.misalign.patch_pairs import PatchPairMaker
from regsim.misalign.rough_pairs import ImagePair, image_pair
from regsim.training.patch_recipe import MultiShotRecipe, Shot
from regsim.transforms.base import Transform
from regsim.transforms.files import read_transform

TRIED = 64
FEWEST_PEOPLE = 2


def read_rough_pairs(
    path: Path, recipe: MultiShotRecipe, say: OnMessage
) -> tuple[list[ImagePair], list[RoughPairRow], dict[str, Transform]]:
    """The pairs of a list that can be used, the rows of those that cannot, and the starts that the list names.

    Raises:
        InputError: the list itself cannot be read, or pairs of one person, or of none, are left.
    """
    usable: list[ImagePair] = []
    rows: list[RoughPairRow] = []
    starts: dict[str, Transform] = {}
    for files in read_pairs_file(path):
        say(f"reading {files.name}")
        person = files.subject or files.name
        try:
            pair, start = _read(files, person, recipe)
            for shot in _hardest(recipe):
                check_room(pair, shot, recipe)
        except RegsimError as problem:
            rows.append(RoughPairRow(name=files.name, subject=person, part="left out", why=str(problem)))
            continue
        usable.append(pair)
        if start is not None:
            starts[pair.name] = start
    people = sorted({pair.person for pair in usable})
    if len(people) < FEWEST_PEOPLE:
        reason = f"; the first that was left out: {rows[0].why}" if rows else ""
        raise InputError(
            f"'{path}': pairs of {FEWEST_PEOPLE} people at least are needed, one to learn from and one to check by; usable "
            f"are those of {', '.join(people) or 'nobody'}{reason}"
        )
    return usable, rows, starts


def _hardest(recipe: MultiShotRecipe) -> list[Shot]:
    """For each spacing the shot whose patches must be farthest apart."""
    return [
        max((shot for shot in recipe.shots if shot.spacing == spacing), key=lambda shot: shot.apart)
        for spacing in recipe.network.spacings
    ]


def check_room(pair: ImagePair, shot: Shot, recipe: MultiShotRecipe, transform: Transform | None = None) -> None:
    """Whether a shot finds patches in a pair.

    Raises:
        InputError: no overlap with contrast in both images, or no room for patches.
    """
    maker = PatchPairMaker([pair.rough(shot.spacing, transform)], recipe.network.patch, recipe.patches_of(shot))
    maker(TRIED, torch.Generator().manual_seed(0))


def _read(files: PairFiles, person: str, recipe: MultiShotRecipe) -> tuple[ImagePair, Transform | None]:
    fixed, moving = read_pair(files.fixed, files.moving, files.fixed_mask, files.moving_mask, None)
    if fixed.ndim != recipe.dims:
        raise InputError(f"'{fixed.name}' is {fixed.ndim}-D, the recipe is for {recipe.dims}-D images")
    start = None if files.initial is None else read_transform(files.initial, fixed.ndim)
    reach = 0.5 * recipe.network.patch * max(shot.spacing for shot in recipe.shots)
    pair = image_pair(files.name, person, fixed, moving, recipe.finest, reach, start)
    return replace(pair, data_set=files.data_set, licence=files.licence), start
