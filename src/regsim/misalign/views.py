"""Pairs of views of one anatomy in different contrasts, with its tissues and where each voxel of one lies in the other."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from pydantic import Field, field_validator

from regsim.errors import InputError, unknown_name
from regsim.misalign.appearance import Appearance, Chain
from regsim.misalign.change import happens, uniform
from regsim.misalign.pairs import SMALLEST_SHARE
from regsim.misalign.sources import Subject
from regsim.misalign.tissue_contrast import ContrastSettings, draw_shades, recoloured
from regsim.misalign.tissues import protocol_named
from regsim.misalign.view_anatomy import ViewAnatomy, view_anatomy, with_brains
from regsim.misalign.view_geometry import ViewGeometry, draw_motions, draw_placements
from regsim.misalign.window import WindowSettings, draw_window

__all__ = ["KINDS", "ContrastSettings", "ViewBatch", "ViewGeometry", "ViewMaker", "ViewSettings", "kind_of"]

KINDS = ("contrasts", "labelled", "painted", "scans")
UNKNOWN = -1
TOP, BRIGHT, DIMMEST, THINNED = 1.3, 0.995, 0.05, 7


class ViewSettings(ViewGeometry):
    """How views are made; where they lie is said in `ViewGeometry`.

    Args:
        contrasts: see there. Each view draws its own.
        appearance: changes of how the views look, one after the other; each view draws its own.
        window: what of the views is shown, the same part of both.
        shares: of the pairs, by the kind of their subject: "contrasts" (more than one image), "labelled" (one image and
            labels), "painted" (labels only), "scans" (one image, no labels). Kinds that are not named are not drawn; where
            none is named, all subjects are drawn equally often.
        protocols: the label protocol (see `tissues.PROTOCOLS`) of data sets whose name starts so; else "freesurfer".
        stripped: labelled whole heads come a second time, the brain alone.
    """

    contrasts: ContrastSettings = ContrastSettings()
    appearance: tuple[Appearance, ...] = ()
    window: WindowSettings = WindowSettings(disc=0.1, box=0.1, smallest=0.5, largest=0.95)
    shares: dict[str, float] = Field(default_factory=dict)
    protocols: dict[str, str] = Field(default_factory=dict)
    stripped: bool = True

    @field_validator("shares")
    @classmethod
    def _known_kinds(cls, shares: dict[str, float]) -> dict[str, float]:
        for kind, share in shares.items():
            if kind not in KINDS:
                raise unknown_name("kind of views in shares", kind, list(KINDS))
            if share < 0:
                raise ValueError(f"shares.{kind}: expected a number of at least 0, got {share:g}")
        if shares and sum(shares.values()) == 0:
            raise ValueError("shares: expected one above 0, got only zeros")
        return shares

    @field_validator("protocols")
    @classmethod
    def _known_protocols(cls, protocols: dict[str, str]) -> dict[str, str]:
        for name in protocols.values():
            protocol_named(name)
        return protocols


@dataclass(frozen=True)
class ViewBatch:
    """A batch of pairs of views.

    Args:
        first, second: `(N, 1, *spatial)`, in about [0, 1.3].
        first_tissue, second_tissue: `(N, *spatial)` int64, classes 0 ... 3 (see `TISSUES`); -1 where they are not known:
            no labels, or outside the window.
        first_seen, second_seen: `(N, *spatial)` bool, anatomy is shown.
        turn, shift: `(N, d, d)`, `(N, d)`: voxel a of the first view lies at `(a - shift) @ turn` in the second.
        subject: `(N,)`, index into the view maker's subjects.

    Convention:
        Voxels are counted in the order of the array's axes from the middle of the crop: index minus (size - 1) / 2.
    """

    first: torch.Tensor
    second: torch.Tensor
    first_tissue: torch.Tensor
    second_tissue: torch.Tensor
    first_seen: torch.Tensor
    second_seen: torch.Tensor
    turn: torch.Tensor
    shift: torch.Tensor
    subject: torch.Tensor

    def to(self, device: torch.device | str) -> "ViewBatch":
        """On a device."""
        return ViewBatch(**{part.name: getattr(self, part.name).to(device) for part in fields(self)})


@dataclass(frozen=True)
class _View:
    image: torch.Tensor
    tissue: torch.Tensor
    seen: torch.Tensor


class ViewMaker:
    """Draws batches of pairs of views: `maker(count, generator) -> ViewBatch`.

    Args:
        subjects: at least one; those whose voxels are not of equal sides are resampled to their smallest step.
        settings: see `ViewSettings`.

    Raises:
        InputError: no subject, one that is too small, or flat in 3-D, labels of another protocol, no subject of a kind
            that is drawn.

    Example:
        >>> from regsim.misalign.sources import shape_subjects
        >>> maker = ViewMaker(shape_subjects(2, 48, 2, seed=0), ViewSettings(size=32, shift=4.0))
        >>> views = maker(3, torch.Generator().manual_seed(0))
        >>> views.first.shape, views.first_tissue.shape, views.turn.shape
        (torch.Size([3, 1, 32, 32]), torch.Size([3, 32, 32]), torch.Size([3, 2, 2]))
    """

    def __init__(self, subjects: Sequence[Subject], settings: ViewSettings):
        if not subjects:
            raise InputError("views: no subjects to draw from")
        self.settings = settings
        self.subjects = with_brains(subjects, settings.protocols) if settings.stripped else list(subjects)
        self.chain = Chain(changes=settings.appearance)
        self.weights = _weights(self.subjects, settings.shares)
        self.anatomies = [view_anatomy(subject, settings.protocols) for subject in self.subjects]
        for subject, anatomy in zip(self.subjects, self.anatomies, strict=True):
            _check_size(subject, anatomy, settings)

    def __call__(self, count: int, generator: torch.Generator) -> ViewBatch:
        """Draw `count` pairs."""
        settings = self.settings
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        anatomies = [self.anatomies[number] for number in chosen]
        here = draw_placements(anatomies, settings, generator)
        turn, shift = draw_motions(count, settings, generator)
        views = [
            self._view(anatomy, places.points(item), generator)
            for places in (here, here.moved(turn, shift))
            for item, anatomy in enumerate(anatomies)
        ]
        shown = torch.cat([self._shown(count, generator)] * 2)
        images = self._finished(torch.cat([view.image for view in views]), generator).mul_(shown)
        tissue = torch.where(shown[:, 0], torch.stack([view.tissue for view in views]), UNKNOWN)
        seen = torch.stack([view.seen for view in views]) & shown[:, 0]
        first, second = slice(None, count), slice(count, None)
        return ViewBatch(
            images[first], images[second], tissue[first], tissue[second], seen[first], seen[second], turn, shift, chosen
        )

    def with_subjects(self, subjects: Sequence[Subject]) -> "ViewMaker":
        """Other subjects, the same settings."""
        return ViewMaker(subjects, self.settings)

    def _shown(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """`(N, 1, *spatial)` bool: everything, or what a window leaves; windows are made where one is drawn only."""
        shape, window = (self.settings.size,) * self.settings.dims, self.settings.window
        shown = torch.ones((count, 1, *shape), dtype=torch.bool)
        hiding = min(1.0, window.disc + window.box)
        hidden = happens(count, hiding, generator).nonzero()[:, 0]
        if len(hidden) > 0:
            disc = window.disc / hiding
            always = window.model_copy(update={"disc": disc, "box": 1 - disc})
            shown[hidden] = draw_window(len(hidden), shape, always, generator) > 0
        return shown

    def _view(self, anatomy: ViewAnatomy, points: torch.Tensor, generator: torch.Generator) -> _View:
        """One view in a contrast of its own, before its appearance is changed."""
        place, inside = anatomy.nearest(points)
        seen = anatomy.seen.take(place).logical_and_(inside)
        if anatomy.labels is None:
            return _View(self._scan(anatomy, points, generator), torch.full_like(place, UNKNOWN), seen)
        labels = torch.where(inside, anatomy.labels.take(place).long(), 0)
        if anatomy.images or anatomy.palette is None:
            image = self._scan(anatomy, points, generator)
        else:
            image = anatomy.palette(labels, draw_shades(self.settings.contrasts, generator), generator)
        return _View(image, anatomy.tissue.take(labels), seen)

    def _scan(self, anatomy: ViewAnatomy, points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One of the subject's images, or its T1 recoloured."""
        number = int(torch.randint(len(anatomy.images), (), generator=generator))
        image = anatomy.image(number, points)
        settings = self.settings.contrasts
        if anatomy.shades is None or float(torch.rand((), generator=generator)) >= settings.recoloured:
            return image
        return recoloured(image, anatomy.shades, draw_shades(settings, generator), generator)

    def _finished(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The views `(2 N, 1, *spatial)` as their appearance changes them, at a brightness of their own."""
        images = self.chain(images, generator)
        few = images.flatten(1)[:, ::THINNED]
        bright = few.kthvalue(1 + round(BRIGHT * (few.shape[1] - 1)), dim=1).values.clamp_min(DIMMEST)
        wanted = uniform(len(images), self.settings.contrasts.brightness, generator)
        return (images * (wanted / bright).reshape(-1, *[1] * (images.ndim - 1))).clamp_(0, TOP)


def kind_of(subject: Subject) -> str:
    """Which of `KINDS` a subject is."""
    if len(subject.images) > 1:
        return "contrasts"
    if subject.images:
        return "scans" if subject.labels is None else "labelled"
    return "painted"


def _weights(subjects: Sequence[Subject], shares: dict[str, float]) -> torch.Tensor:
    """How often each subject is drawn: each kind by its share, subjects of one kind alike."""
    kinds = [kind_of(subject) for subject in subjects]
    if not shares:
        return torch.ones(len(subjects))
    weights = torch.tensor([shares.get(kind, 0.0) / kinds.count(kind) for kind in kinds])
    if not bool(weights.any()):
        wanted = ", ".join(kind for kind in KINDS if shares.get(kind, 0) > 0)
        there = ", ".join(kind for kind in KINDS if kind in kinds)
        raise InputError(f"views: shares ask for {wanted}, and the subjects are {there}")
    return weights


def _check_size(subject: Subject, anatomy: ViewAnatomy, settings: ViewSettings) -> None:
    shape = " x ".join(str(n) for n in anatomy.seen.shape)
    if settings.dims == 3 and anatomy.flat:
        raise InputError(
            f"subject '{subject.name}' ({shape} voxels) is a picture or a stack of sections; cut planes of it (dims 2)"
        )
    if sorted(anatomy.seen.shape)[-settings.dims] < settings.size * SMALLEST_SHARE:
        raise InputError(
            f"subject '{subject.name}' ({shape} voxels) is too small for views of {settings.size}; lower size"
        )
