"""What a trained model is, from what it was learnt, and by what its training can be known again."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from regsim.applications.subjects import Parts
from regsim.evaluation.results import InputFile
from regsim.metrics.checkpoint import Card, DataSource, Subjects
from regsim.misalign.sources import MADE_UP, Subject
from regsim.output import now, sha256, size_in_bytes, versions
from regsim.training.recipe import AnyRecipe
from regsim.training.state import fingerprint as hash_of

HARMLESS: dict[str, Any] = {"trainer": {"device", "fast_memory", "checkpoint_every", "ahead"}}
Figures = dict[str, float | str | tuple[float, ...]]


def model_card(recipe: AnyRecipe, parts: Parts, seconds: float, notes: Sequence[str]) -> Card:
    """The card without figures, tensors and hash."""
    sets = {subject.data_set: subject.licence for subject in (*parts.train, *parts.validation)}
    judges = sorted({subject.data_set or "unnamed" for subject in parts.test} - set(sets))
    data = (
        DataSource(name=name or "unnamed", licence=licence or "not stated") for name, licence in sorted(sets.items())
    )
    made = len(parts.train) - len(_names(parts.train))
    beside = f", on {made} made-up anatomies beside the subjects named" if made else ""
    if judges:
        notes = [*notes, f"Judged on subjects of {', '.join(judges)}, from which nothing was learnt."]
    said = [recipe.description, f"Trained in {seconds:.0f} s{beside}.", *notes]
    return Card(
        name=recipe.name,
        metric=recipe.metric,
        network=recipe.network.model_dump(mode="json"),
        settings=recipe.model_dump(mode="json", exclude={"network"}),
        data=tuple(data),
        subjects=Subjects(train=_names(parts.train), validation=_names(parts.validation), test=_names(parts.test)),
        versions=versions(),
        seed=recipe.trainer.seed,
        created=now(),
        licence=recipe.licence,
        notes=tuple(note for note in said if note),
    )


def fingerprint(recipe: AnyRecipe, parts: Parts, harmless: dict[str, Any] = HARMLESS) -> str:
    """A hash of whatever makes a training what it is: the recipe, and the voxels of all subjects, by their part.

    `harmless`: entries of the recipe that do not matter, as pydantic's `exclude`.
    """
    who = {
        part: [[subject.name, voxels(subject)] for subject in subjects]
        for part, subjects in (("train", parts.train), ("validation", parts.validation), ("test", parts.test))
    }
    return hash_of({"recipe": recipe.model_dump(mode="json", exclude=harmless), **who})


def input_files(data: Sequence[Path], test_data: Sequence[Path], parts: Parts) -> list[InputFile]:
    """The folders and manifests that were named, and each real subject's voxels as they were read."""
    named = [("data", place) for place in data] + [("test data", place) for place in test_data]
    places = [
        InputFile(role=role, name=place.resolve().name, sha256=sha256(place), size=size_in_bytes(place))
        for role, place in named
    ]
    read = [
        InputFile(role="subject", name=subject.name, sha256=voxels(subject), size=_size(subject))
        for subject in parts.all
        if subject.data_set != MADE_UP
    ]
    return [*places, *read]


def voxels(subject: Subject) -> str:
    """SHA-256 of a subject's contrasts and labels as they are trained on."""
    digest = hashlib.sha256()
    tensors: dict[str, torch.Tensor] = dict(subject.images)
    if subject.labels is not None:
        tensors["labels"] = subject.labels
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _size(subject: Subject) -> int:
    return sum(volume.nbytes for volume in subject.images.values())


def _names(subjects: Sequence[Subject]) -> tuple[str, ...]:
    """Of those that are not made up."""
    return tuple(subject.name for subject in subjects if subject.data_set != MADE_UP)
