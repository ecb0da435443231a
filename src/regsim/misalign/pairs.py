"""Pairs of images with the truth about how far they are apart: drawn from subjects, motions and appearances."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from regsim.errors import InputError
from regsim.misalign.anatomy import paint
from regsim.misalign.appearance import Appearance, Chain
from regsim.misalign.motion import Motion, MotionSettings, draw_motion, grid_points
from regsim.misalign.sources import Subject
from regsim.misalign.window import WindowSettings, draw_window
from regsim.settings import Settings

Pairing = Literal["one_image", "neighbours", "contrasts", "painted"]
CANVAS, MARGIN = 1.5, 1.25
SMALLEST_SHARE = 0.25
SHARP, HALF = 0.999, 0.5
UNEQUAL = 1.2
Option = TypeVar("Option")


class PairSettings(Settings):
    """How pairs are made.

    Args:
        dims: 2 cuts planes, 3 takes blocks.
        size: side of the crops, voxels.
        spacing: what a voxel counts in lengths of motions; 1 means that they, and errors, are in voxels.
        pairing: "one_image": both members show one image; "neighbours": sections `apart` apart; "contrasts": two contrasts
            of one subject; "painted": two paintings of its labels. Subjects without what a pairing needs are painted or
            shown as one image.
        painted_only: share of the pairs from subjects that have labels and no images, where there are others, too.
        apart: how far sections lie apart, smallest and largest, physical units.
        least_content: planes with less anatomy than this share of the fullest one are left out: towards the ends of an
            object, neighbours differ so much that "aligned" loses its meaning.
        motion, appearance, window: see there. Each image of a pair draws its own appearance.
        resample: "both" images alike, or "misaligned": only the moved member of misaligned pairs, and zero filled, as the
            papers do; the audit refuses that one.
    """

    dims: Literal[2, 3] = 2
    size: int = Field(default=128, ge=8, le=1024)
    spacing: float = Field(default=1.0, gt=0)
    pairing: tuple[Pairing, ...] = ("one_image",)
    painted_only: float = Field(default=0.3, ge=0, le=1)
    apart: tuple[float, float] = (0.0, 3.0)
    least_content: float = Field(default=0.4, ge=0, le=1)
    motion: MotionSettings = MotionSettings()
    appearance: tuple[Appearance, ...] = ()
    window: WindowSettings = WindowSettings()
    resample: Literal["both", "misaligned"] = "both"

    @model_validator(mode="after")
    def _has_a_pairing(self) -> Self:
        if not self.pairing:
            raise ValueError("pairing: expected at least one of one_image, neighbours, contrasts, painted")
        if not 0 <= self.apart[0] <= self.apart[1]:
            raise ValueError(f"apart: expected 0 <= smallest <= largest, got {self.apart}")
        return self


@dataclass(frozen=True)
class PairBatch:
    """A batch of pairs and the truth about them.

    Args:
        fixed, moving: `(N, 1, *spatial)`, in [0, 1].
        mask: `(N, 1, *spatial)`, 1 where both images hold data.
        displacement: `(N, d, *spatial)`, physical units, x first: from a point of the fixed image to its place in the moving.
        content: `(N, 1, *spatial)`, the part of the mask where the fixed image shows anatomy.
        error: `(N,)`, mean length of the displacement over the content (over the mask where there is none).
        labels: `(N, 1, *spatial)` of the fixed image, int64, or None.
        subject: `(N,)`, index into the pair maker's subjects.
        parameters: everything that was drawn for the motion.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    mask: torch.Tensor
    content: torch.Tensor
    displacement: torch.Tensor
    error: torch.Tensor
    labels: torch.Tensor | None
    subject: torch.Tensor
    parameters: dict[str, torch.Tensor]

    def to(self, device: torch.device | str) -> "PairBatch":
        """On a device."""
        return PairBatch(
            self.fixed.to(device),
            self.moving.to(device),
            self.mask.to(device),
            self.content.to(device),
            self.displacement.to(device),
            self.error.to(device),
            None if self.labels is None else self.labels.to(device),
            self.subject.to(device),
            {name: value.to(device) for name, value in self.parameters.items()},
        )

    @property
    def misaligned(self) -> torch.Tensor:
        """`(N,)` bool: the images part at all."""
        return self.parameters["target"] > 0


@dataclass(frozen=True)
class _Canvas:
    """Both members of one pair before they are resampled, `(1, *canvas)` each, and where they hold data."""

    fixed: torch.Tensor
    moving: torch.Tensor
    data: torch.Tensor
    seen: torch.Tensor
    labels: torch.Tensor
    painted: bool


class PairMaker:
    """Draws batches of pairs: `maker(count, generator) -> PairBatch`.

    Args:
        subjects: at least one.
        settings: see `PairSettings`.

    Raises:
        InputError: no subject, or a subject smaller than a quarter of the crop.
    """

    def __init__(self, subjects: Sequence[Subject], settings: PairSettings):
        if not subjects:
            raise InputError("pairs: no subjects to draw from")
        self.subjects = list(subjects)
        self.settings = settings
        self.chain = Chain(changes=settings.appearance)
        share = max(CANVAS, MARGIN * settings.motion.common.zoom)
        self.canvas = settings.size + 2 * math.ceil(settings.size * (share - 1) / 2)
        for subject in subjects:
            _check_size(subject, settings)
        flat = settings.dims == 2
        self.planes = [_planes_with_content(subject, settings) if flat else {} for subject in self.subjects]

    def __call__(self, count: int, generator: torch.Generator) -> PairBatch:
        """Draw `count` pairs."""
        settings, shape = self.settings, (self.settings.size,) * self.settings.dims
        chosen = self._choose(count, generator)
        canvas = self._canvases(chosen, generator)
        motion = draw_motion(count, shape, settings.spacing, settings.motion, generator)
        if settings.resample == "misaligned":
            motion, canvas = _one_sided(motion, shape, settings.spacing), _zero_filled(canvas, settings.size)
        fixed, first, seen = self._read(canvas.fixed, canvas, motion.fixed)
        moving, second, _ = self._read(canvas.moving, canvas, motion.moving)
        mask = first * second * draw_window(count, shape, settings.window, generator)
        content = mask * seen
        content = torch.where(content.flatten(1).sum(dim=1).reshape(-1, *[1] * (mask.ndim - 1)) > 0, content, mask)
        shown = mask if settings.resample == "both" else torch.ones_like(mask)
        return PairBatch(
            fixed=self.chain(fixed, generator) * shown,
            moving=self.chain(moving, generator) * shown,
            mask=mask,
            content=content,
            displacement=motion.displacement,
            error=motion.error(content),
            labels=self._labels(canvas.labels, motion.fixed),
            subject=chosen,
            parameters=motion.parameters,
        )

    def with_subjects(self, subjects: Sequence[Subject]) -> "PairMaker":
        """Other subjects, the same settings."""
        return PairMaker(subjects, self.settings)

    def with_settings(self, settings: PairSettings) -> "PairMaker":
        """The same subjects, other settings."""
        return PairMaker(self.subjects, settings)

    def _choose(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Subjects by number; those with labels only share `painted_only` of the pairs, where there are others, too."""
        bare = torch.tensor([not subject.images for subject in self.subjects])
        weights = torch.ones(len(bare))
        if bool(bare.any()) and not bool(bare.all()):
            share = self.settings.painted_only
            weights = torch.where(bare, share / bare.sum(), (1 - share) / (~bare).sum())
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def _canvases(self, chosen: torch.Tensor, generator: torch.Generator) -> _Canvas:
        """The batch's canvases, stacked; those to be painted are painted, twice each."""
        parts = [self._cut(int(index), generator) for index in chosen]
        fixed, moving, data, seen, labels = (
            torch.stack([getattr(part, name) for part in parts])
            for name in ("fixed", "moving", "data", "seen", "labels")
        )
        painted = torch.tensor([part.painted for part in parts])
        if bool(painted.any()):
            fixed[painted] = paint(labels[painted], generator)
            moving[painted] = paint(labels[painted], generator)
        return _Canvas(fixed, moving, data, seen, labels, False)

    def _cut(self, index: int, generator: torch.Generator) -> _Canvas:
        """One pair's canvases: a plane (2-D) or a block (3-D) around some anatomy."""
        subject, settings = self.subjects[index], self.settings
        pairing = _pairing(subject, settings, generator)
        fixed, moving = _contrasts(subject, pairing, generator)
        seen, labels = subject.seen, subject.labels
        if settings.dims == 2:
            axis = _choice(list(self.planes[index]), generator)
            place = _choice(self.planes[index][axis], generator)
            other = _neighbour(subject, axis, place, settings.apart, generator) if pairing == "neighbours" else place
            fixed, moving = fixed.select(axis, place), moving.select(axis, other)
            labels = None if labels is None else labels.select(axis, place)
            seen = seen.select(axis, place)
        start = self._corner(seen, generator)
        size = (self.canvas,) * settings.dims
        nothing = torch.zeros(size, dtype=torch.long)
        data = torch.ones(size) if subject.empty_outside else _window(torch.ones(seen.shape), start, size)
        return _Canvas(
            _window(fixed, start, size)[None],
            _window(moving, start, size)[None],
            data[None],
            _window(seen.float(), start, size)[None],
            (nothing if labels is None else _window(labels, start, size))[None],
            pairing == "painted",
        )

    def _corner(self, seen: torch.Tensor, generator: torch.Generator) -> list[int]:
        """First voxel of a canvas: its centre lies between the middle of the anatomy and a random voxel of it."""
        inside = seen.nonzero()
        somewhere = inside[int(torch.randint(len(inside), (), generator=generator))].float()
        middle = (inside.amin(dim=0) + inside.amax(dim=0)).float() / 2
        room = ((torch.tensor(seen.shape) - self.settings.size) / 2).clamp_min(0)
        away = (somewhere - middle).clamp(-room, room) * torch.rand((), generator=generator)
        return [int(value) for value in (middle + away - self.canvas / 2).round()]

    def _read(
        self, image: torch.Tensor, canvas: _Canvas, where: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The image, where it holds data and where it shows anatomy, at points relative to the canvas' centre."""
        place = where * (2 / ((self.canvas - 1) * self.settings.spacing))
        both = F.grid_sample(torch.cat([image, canvas.data, canvas.seen], dim=1), place, align_corners=True)
        held = (both[:, 1:2] > SHARP).float()
        return both[:, :1] * held, held, (both[:, 2:] > HALF).float()

    def _labels(self, canvas: torch.Tensor, where: torch.Tensor) -> torch.Tensor | None:
        if all(subject.labels is None for subject in self.subjects):
            return None
        place = where * (2 / ((self.canvas - 1) * self.settings.spacing))
        return F.grid_sample(canvas.float(), place, mode="nearest", align_corners=True).long()


def joined(parts: Sequence[PairBatch]) -> PairBatch:
    """Batches as one."""

    def all_of(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return PairBatch(
        **{name: all_of(name) for name in ("fixed", "moving", "mask", "content", "displacement", "error", "subject")},
        labels=None if parts[0].labels is None else all_of("labels"),
        parameters={name: torch.cat([part.parameters[name] for part in parts]) for name in parts[0].parameters},
    )


def _check_size(subject: Subject, settings: PairSettings) -> None:
    sides = sorted(subject.shape)
    if sides[-settings.dims] < settings.size * SMALLEST_SHARE:
        shape = " x ".join(str(n) for n in subject.shape)
        raise InputError(
            f"subject '{subject.name}' ({shape} voxels) is too small for crops of {settings.size}; lower pairs.size"
        )
    if settings.dims == 3 and max(subject.steps) > UNEQUAL * min(subject.steps):
        steps = " x ".join(f"{step:g}" for step in subject.steps)
        remedy = "blocks (pairs.dims 3) need equal sides; raise source.spacing, or train on planes (pairs.dims 2)"
        raise InputError(f"subject '{subject.name}' has voxels of {steps}: {remedy}")
    if not bool(subject.seen.any()):
        raise InputError(f"subject '{subject.name}': nothing but background in its image or label map")


def _planes_with_content(subject: Subject, settings: PairSettings) -> dict[int, list[int]]:
    """For each axis across which planes of enough extent can be cut, those with a share of the fullest one's anatomy."""
    found = {}
    for axis in subject.axes:
        if min(n for other, n in enumerate(subject.shape) if other != axis) < settings.size * SMALLEST_SHARE:
            continue
        content = subject.seen.float().sum(dim=[other for other in range(3) if other != axis])
        found[axis] = (content >= settings.least_content * content.max()).nonzero().flatten().tolist()
    if not found:
        raise InputError(f"subject '{subject.name}': planes too narrow for crops of {settings.size}; lower pairs.size")
    return found


def _choice(options: Sequence[Option], generator: torch.Generator) -> Option:
    return options[int(torch.randint(len(options), (), generator=generator))]


def _pairing(subject: Subject, settings: PairSettings, generator: torch.Generator) -> Pairing:
    """One of the pairings that this subject can serve."""
    if not subject.images:
        return "painted"
    able: dict[Pairing, bool] = {
        "one_image": True,
        "neighbours": settings.dims == 2 and max(subject.shape[axis] for axis in subject.axes) > 1,
        "contrasts": len(subject.images) > 1,
        "painted": subject.labels is not None,
    }
    return _choice([pairing for pairing in settings.pairing if able[pairing]] or ["one_image"], generator)


def _contrasts(subject: Subject, pairing: Pairing, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The volumes of the two members: one contrast, or two different ones."""
    names = sorted(subject.images)
    if not names:  # painted later; zeros that take no memory
        nothing = torch.zeros(()).expand(subject.shape)
        return nothing, nothing
    first = _choice(names, generator)
    second = _choice([name for name in names if name != first], generator) if pairing == "contrasts" else first
    return subject.images[first], subject.images[second]


def _neighbour(subject: Subject, axis: int, place: int, apart: tuple[float, float], generator: torch.Generator) -> int:
    """A plane within the stated distance, on either side, inside the volume."""
    distance = apart[0] + (apart[1] - apart[0]) * float(torch.rand((), generator=generator))
    step = round(distance / subject.steps[axis])
    side = 1 if float(torch.rand((), generator=generator)) < 0.5 else -1
    last = subject.shape[axis] - 1
    return place + side * step if 0 <= place + side * step <= last else min(max(place - side * step, 0), last)


def _window(volume: torch.Tensor, start: Sequence[int], size: tuple[int, ...]) -> torch.Tensor:
    """The part from `start` of `size`, zero beyond the volume."""
    part = volume
    margins: list[int] = []
    for axis, (first, length) in enumerate(zip(start, size, strict=True)):
        low, high = max(first, 0), max(min(first + length, volume.shape[axis]), max(first, 0))
        part = part.narrow(axis, min(low, volume.shape[axis]), max(0, high - low))
        before = low - first
        margins = [before, length - before - (high - low), *margins]
    return F.pad(part, margins)


def _one_sided(motion: Motion, shape: tuple[int, ...], spacing: float) -> Motion:
    """The papers' way: the fixed image untouched, the moving image resampled where the pair parts."""
    still = grid_points(shape, spacing).expand(motion.fixed.shape)
    return replace(motion, fixed=still, moving=still + motion.displacement.movedim(1, -1))


def _zero_filled(canvas: _Canvas, size: int) -> _Canvas:
    """Nothing beyond the crop: what moves in from there is zero."""
    frame = torch.zeros_like(canvas.data)
    margin = (frame.shape[-1] - size) // 2
    inner = frame
    for axis in range(2, frame.ndim):
        inner = inner.narrow(axis, margin, size)
    inner.fill_(1)
    return replace(canvas, fixed=canvas.fixed * frame, moving=canvas.moving * frame, data=torch.ones_like(canvas.data))
