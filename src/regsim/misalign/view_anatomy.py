"""Subjects as views are read from them: equal steps, labels as tissues, and brains without the rest of the head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from regsim.errors import InputError
from regsim.misalign.anatomy import consecutive
from regsim.misalign.error_pairs import with_stripped
from regsim.misalign.sources import Subject
from regsim.misalign.tissue_contrast import Palette, Shades, t1_shades
from regsim.misalign.tissues import CLASSES, Protocol, brain_only, painted_as, protocol_of, structures_of

UNEQUAL = 1.02
STRIPPED = "/stripped"


@dataclass(frozen=True)
class ViewAnatomy:
    """One subject, ready to be read: all volumes `(Z, Y, X)` on one grid of equal steps.

    Args:
        images: in the order of their names.
        labels: int16, 0 = background, then one number for each id; None where there are none.
        tissue: `(L,)`, the tissue class of each label.
        palette: how the labels are painted.
        shades: what the tissues of a labelled T1 look like; None for all else.
        seen: where there is anatomy.
        voxels: `(M,)`, flat places of the brain's voxels; of the anatomy's where there are no labels.
        axes: across which planes may be cut.
        flat: sections or a picture: planes cannot be turned out of their plane.
    """

    images: tuple[torch.Tensor, ...]
    labels: torch.Tensor | None
    tissue: torch.Tensor
    palette: Palette | None
    shades: Shades | None
    seen: torch.Tensor
    voxels: torch.Tensor
    axes: tuple[int, ...]
    flat: bool

    def a_voxel(self, generator: torch.Generator) -> torch.Tensor:
        """`(3,)`: a random voxel of the brain."""
        chosen = self.voxels[torch.randint(len(self.voxels), (), generator=generator)].long()
        return torch.stack(torch.unravel_index(chosen, self.seen.shape)).float()

    def an_axis(self, generator: torch.Generator) -> torch.Tensor:
        """A random axis across which a plane can be cut."""
        return torch.tensor(self.axes)[torch.randint(len(self.axes), (), generator=generator)]

    def image(self, number: int, points: torch.Tensor) -> torch.Tensor:
        """`(1, 1, *spatial)`: an image at `points` `(3, *spatial)`, linear between the voxels, 0 beyond them."""
        sides = torch.tensor(self.seen.shape, dtype=points.dtype).reshape(3, *[1] * (points.ndim - 1))
        grid = torch.addcmul(1 / sides - 1, points, 2 / sides).flip(0).reshape(1, 3, 1, 1, -1).movedim(1, -1)
        read = F.grid_sample(self.images[number][None, None], grid, align_corners=False, padding_mode="zeros")
        return read.reshape(1, 1, *points.shape[1:])

    def nearest(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat places of the voxels nearest to `points` `(3, *spatial)`, and which of them lie in the volume."""
        rounded = points.round()
        place = torch.zeros(points.shape[1:], dtype=torch.long)
        inside = torch.ones(points.shape[1:], dtype=torch.bool)
        for along, length in zip(rounded, self.seen.shape, strict=True):
            held = along.clamp(0, length - 1)
            inside &= held == along
            place.mul_(length).add_(held.long())
        return place, inside


def view_anatomy(subject: Subject, protocols: Mapping[str, str]) -> ViewAnatomy:
    """Prepare a subject.

    Raises:
        InputError: neither an image nor labels, nothing seen, labels without grey or white matter.
    """
    if not subject.images and subject.labels is None:
        raise InputError(f"subject '{subject.name}' has no image and no labels")
    flat = len(subject.axes) == 1 and not _unequal(subject)
    subject = with_equal_steps(subject)
    images = tuple(subject.images[name].float().contiguous() for name in sorted(subject.images))
    brain = subject.seen
    labels, tissue, palette, shades = None, torch.zeros(1, dtype=torch.long), None, None
    if subject.labels is not None:
        labels, ids = _numbered(subject.labels)
        palette = _palette(ids, protocol_of(subject.data_set, protocols))
        tissue = torch.tensor(CLASSES)[palette.structures]
        _check_tissues(subject, labels, tissue)
        brain = (tissue > 0)[labels.long()]
        shades = t1_shades(images[0], palette.structures[labels.long()]) if len(images) == 1 else None
    if not bool(brain.any()):
        raise InputError(f"subject '{subject.name}': nothing but background in its image or label map")
    voxels = brain.flatten().nonzero()[:, 0].to(torch.int32 if brain.numel() < 1 << 31 else torch.int64)
    axes = subject.axes
    return ViewAnatomy(images, labels, tissue, palette, shades, subject.seen.contiguous(), voxels, axes, flat)


def with_brains(subjects: Sequence[Subject], protocols: Mapping[str, str]) -> list[Subject]:
    """The subjects, and after them the brains alone of those that are labelled whole heads (see `with_stripped`).

    Whole heads are images that show more than their labels say, and label maps with ids outside the brain. A brain alone is
    named as its head with "/stripped" after it; where there is a subject of that name, none is added.
    """
    found, names = list(subjects), {subject.name for subject in subjects}
    for subject in subjects:
        if subject.labels is None or subject.name.endswith(STRIPPED) or subject.name + STRIPPED in names:
            continue
        labels = brain_only(subject.labels, protocol_of(subject.data_set, protocols))
        whole = bool((labels != subject.labels).any())
        brain = replace(subject, labels=labels, empty_outside=subject.empty_outside and not whole)
        if subject.images:
            stripped = with_stripped([brain])[1:]
        else:
            stripped = [replace(brain, seen=labels > 0, empty_outside=True)] if whole else []
        found += [replace(copy, name=subject.name + STRIPPED) for copy in stripped]
    return found


def with_equal_steps(subject: Subject) -> Subject:
    """The subject on a grid of its smallest step: images linear between the voxels, labels nearest."""
    if not _unequal(subject):
        return subject
    step = min(subject.steps)
    sides = [max(1, round(n * own / step)) for n, own in zip(subject.shape, subject.steps, strict=True)]
    images = {
        name: F.interpolate(volume[None, None].float(), size=sides, mode="trilinear")[0, 0]
        for name, volume in subject.images.items()
    }
    labels = None if subject.labels is None else _repeated(subject.labels, sides)
    seen = _repeated(subject.seen, sides)
    return replace(subject, images=images, labels=labels, seen=seen, steps=(step, step, step), axes=(0, 1, 2))


def _unequal(subject: Subject) -> bool:
    """Whether the steps differ; that of an axis with one voxel does not count."""
    steps = [step for step, length in zip(subject.steps, subject.shape, strict=True) if length > 1]
    return len(steps) == 3 and max(steps) > UNEQUAL * min(steps)


def _repeated(volume: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Nearest voxels on a grid of other sides over the same extent."""
    for axis, (new, old) in enumerate(zip(sides, volume.shape, strict=True)):
        volume = volume.index_select(axis, ((torch.arange(new) + 0.5) * old / new).long())
    return volume


def _numbered(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels as int16 numbers, 0 for the background, and the id of each `(L,)`."""
    places, ids = consecutive(labels[None, None])
    if len(ids) >= 1 << 15:
        raise InputError(f"label maps may hold up to {(1 << 15) - 1} ids, got {len(ids)}; are these labels an image?")
    others = ids != 0
    number = torch.where(others, others.cumsum(dim=0), 0).to(torch.int16)
    return number[places[0, 0]], torch.cat([torch.zeros(1, dtype=torch.long), ids[others]])


def _palette(ids: torch.Tensor, protocol: Protocol) -> Palette:
    return Palette(structures_of(ids, protocol), painted_as(ids, protocol))


def _check_tissues(subject: Subject, labels: torch.Tensor, tissue: torch.Tensor) -> None:
    there = set(tissue[labels.flatten().bincount(minlength=len(tissue)) > 0].tolist())
    if not {2, 3} <= there:
        raise InputError(
            f"labels of '{subject.name}' hold no grey or no white matter; name the label protocol of its data set "
            f"'{subject.data_set}' in protocols"
        )
