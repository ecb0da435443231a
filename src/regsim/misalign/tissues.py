"""Tissue classes of label maps: which ids of a label protocol are ventricles, grey and white matter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from regsim.errors import unknown_name
from regsim.misalign.anatomy import FREESURFER_TWINS, consecutive

TISSUES = ("background", "ventricles", "grey", "white")
# Structures that look alike in a scan, and the tissue class of each.
CLASS_OF = {
    "other": 0,
    "ventricles": 1,
    "csf": 0,
    "cortex": 2,
    "deep_grey": 2,
    "hippocampus": 2,
    "white": 3,
    "deep_white": 3,
}
STRUCTURES = tuple(CLASS_OF)
CLASSES = tuple(CLASS_OF.values())
DEFAULT = "freesurfer"


@dataclass(frozen=True)
class Protocol:
    """What the ids of a label map mean.

    Args:
        structures: ids of each of `STRUCTURES`; ids that none names are "other".
        outside: ids outside the brain: skull, skin, muscle, eyes.
        twins: pairs of ids, right and left side of one structure.
    """

    structures: Mapping[str, tuple[int, ...]]
    outside: tuple[int, ...] = ()
    twins: tuple[tuple[int, int], ...] = field(default=())


def _neighbours(*firsts: int) -> tuple[tuple[int, int], ...]:
    return tuple((first, first + 1) for first in firsts)


FREESURFER = Protocol(
    structures={
        "ventricles": (4, 43, 5, 44, 14, 15, 72),
        "csf": (24,),
        "cortex": (3, 42, 8, 47, *range(1001, 1036), *range(2001, 2036)),
        "deep_grey": (11, 50, 26, 58, 12, 51, 10, 49),
        "hippocampus": (17, 53, 18, 54),
        "white": (2, 41, *range(251, 256)),
        "deep_white": (7, 46, 16, 28, 60, 13, 52),
    },
    outside=(*range(118, 136), 165, 167, 257, 258, *range(501, 1000)),
    twins=FREESURFER_TWINS,
)
MUSE = Protocol(
    structures={
        "ventricles": (4, 11, 49, 50, 51, 52),
        "cortex": (*range(100, 208), 38, 39, 71, 72, 73),
        "deep_grey": (36, 37, 23, 30, 57, 58, 59, 60),
        "hippocampus": (47, 48, 31, 32),
        "white": tuple(range(81, 96)),
        "deep_white": (35, 40, 41, 61, 62, 55, 56),
    },
    twins=(
        (23, 30),
        *_neighbours(31, 36, 38, 40, 47, 49, 51, 55, 57, 59, 61, *range(81, 95, 2), *range(100, 208, 2)),
    ),
)
PROTOCOLS: dict[str, Protocol] = {
    "freesurfer": FREESURFER,
    "muse": MUSE,
    "tissues": Protocol({"csf": (1,), "cortex": (2,), "white": (3,)}),
    "icbm152": Protocol({"cortex": (1,), "white": (2,)}),
}


def protocol_named(name: str) -> Protocol:
    """A label protocol: "freesurfer", "muse" (as DLMUSE has it), "tissues" or "icbm152" (the bundled brain).

    Convention:
        Ventricles are a class; CSF around the brain is background, since many label maps do not have it. Cerebellar
        cortex, thalamus, putamen, caudate, accumbens, hippocampus and amygdala are grey matter; brain stem, ventral
        diencephalon, pallidum and cerebellar white matter are white matter: they look like it in most scans. "tissues" is
        1 = CSF (ventricles or not: background), 2 = grey, 3 = white matter. In FreeSurfer's protocol 501 ... 999 are
        outside the brain, as in SynthSeg's label maps, and not FreeSurfer's own parts of the hippocampus.

    Raises:
        SettingsError: no such protocol.
    """
    if name not in PROTOCOLS:
        raise unknown_name("label protocol", name, list(PROTOCOLS))
    return PROTOCOLS[name]


def protocol_of(data_set: str, protocols: Mapping[str, str]) -> Protocol:
    """The protocol of a data set: the entry with the longest name that `data_set` starts with; else FreeSurfer's."""
    named = [start for start in protocols if data_set.startswith(start)]
    return protocol_named(protocols[max(named, key=len)] if named else DEFAULT)


def structures_of(ids: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """Ids `(L,)` as places in `STRUCTURES`, `(L,)` int64."""
    meaning = {number: STRUCTURES.index(name) for name, numbers in protocol.structures.items() for number in numbers}
    return torch.tensor([meaning.get(number, 0) for number in ids.tolist()], dtype=torch.long)


def tissue_classes(labels: torch.Tensor, protocol: str = DEFAULT) -> torch.Tensor:
    """A label map of any shape as classes 0 ... 3 (see `TISSUES`), int64.

    Raises:
        SettingsError: no such protocol.
        InputError: not whole numbers, or no voxels.

    Example:
        >>> tissue_classes(torch.tensor([0, 24, 4, 3, 47, 2, 16]))
        tensor([0, 0, 1, 2, 2, 3, 3])
    """
    places, ids = consecutive(labels.reshape(1, 1, 1, -1))
    classes = torch.tensor(CLASSES)[structures_of(ids, protocol_named(protocol))]
    return classes[places].reshape(labels.shape)


def brain_only(labels: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """The label map with 0 in place of what lies outside the brain."""
    if not protocol.outside:
        return labels
    return torch.where(torch.isin(labels, torch.tensor(protocol.outside, dtype=labels.dtype)), 0, labels)


def painted_as(ids: torch.Tensor, protocol: Protocol) -> torch.Tensor:
    """For each id `(L,)` the place of the one that it shares its looks with: its twin's where that is there, else its own."""
    known = {number: place for place, number in enumerate(ids.tolist())}
    twin = dict(protocol.twins)
    return torch.tensor([known.get(twin.get(number, number), place) for number, place in known.items()])
