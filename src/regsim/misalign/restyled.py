"""Pairs for IMSE's evaluator: two places of one image, one of them in another style, and their true difference."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from pydantic import Field

from regsim.errors import InputError
from regsim.misalign.appearance import Appearance, Chain, OneOf
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings, joined
from regsim.misalign.sources import Subject
from regsim.settings import Settings


class StyleSettings(Settings):
    """How the members of a pair look.

    Args:
        styles: the styled member gets one of these, all equally likely; none: it keeps its contrast.
        degrade: then these, in order (noise, blur, bias field ...).
        reference: changes of the training contrast itself, the same for both members, before the difference is taken.
        copies: in how many styles each pair is shown (a style is drawn sooner than a pair).
    """

    styles: tuple[Appearance, ...] = Field(default=())
    degrade: tuple[Appearance, ...] = Field(default=())
    reference: tuple[Appearance, ...] = Field(default=())
    copies: int = Field(default=1, ge=1, le=16)


@dataclass(frozen=True)
class RestyledBatch:
    """What an evaluator learns from.

    Args:
        styled, reference: `(N, 1, *spatial)` in [0, 1], 0 outside the mask.
        difference: the reference less the styled member as it was before it was restyled.
        pairs: where both come from; its `moving` is the styled member before it was restyled.
    """

    styled: torch.Tensor
    reference: torch.Tensor
    difference: torch.Tensor
    pairs: PairBatch

    def to(self, device: torch.device | str) -> "RestyledBatch":
        """On a device."""
        return RestyledBatch(
            self.styled.to(device), self.reference.to(device), self.difference.to(device), self.pairs.to(device)
        )


class RestyledMaker:
    """`maker(count, generator) -> RestyledBatch`: the pairs of a `PairMaker`, one member restyled.

    The pair maker's own appearance changes must be empty: both members must be the training contrast.
    """

    def __init__(self, pairs: PairMaker, settings: StyleSettings):
        self.pairs, self.settings = pairs, settings
        self.reference = Chain(changes=settings.reference)
        styles = (OneOf(changes=settings.styles),) if settings.styles else ()
        self.style = Chain(changes=(*styles, *settings.degrade))

    def __call__(self, count: int, generator: torch.Generator) -> RestyledBatch:
        """Draw a batch."""
        own = -(-count // self.settings.copies)
        batch = self.pairs(own, generator)
        if self.settings.copies > 1:
            batch = _first(joined([batch] * self.settings.copies), count)
        fixed, moving = batch.fixed, batch.moving
        if self.settings.reference:
            fixed, drawn = self.reference.changed(fixed, generator)
            fixed, moving = fixed * batch.mask, self.reference.apply(moving, drawn) * batch.mask
        styled = self.style(moving, generator) * batch.mask
        return RestyledBatch(styled, fixed, fixed - moving, batch)

    def with_subjects(self, subjects: Sequence[Subject]) -> "RestyledMaker":
        """Other subjects, the same settings."""
        return RestyledMaker(self.pairs.with_subjects(subjects), self.settings)


def _first(batch: PairBatch, count: int) -> PairBatch:
    """The first `count` pairs."""
    if len(batch.fixed) == count:
        return batch
    parts = {item.name: getattr(batch, item.name) for item in fields(batch)}
    cut = {name: value[:count] for name, value in parts.items() if isinstance(value, torch.Tensor)}
    cut_parameters = {name: value[:count] for name, value in batch.parameters.items()}
    return replace(batch, **cut, parameters=cut_parameters)


class AcrossMaker(PairMaker):
    """Pairs of two true contrasts with the truth between them: the fixed image shows `contrast`, the moving one `other`.

    `restyled` adds what no evaluator has seen: the moving image in the fixed one's contrast.

    Args:
        subjects: such as have both.
        settings: of the pairs.
        contrast, other: names.
    """

    def __init__(self, subjects: Sequence[Subject], settings: PairSettings, contrast: str, other: str):
        if not subjects:
            raise InputError(f"pairs: no subject has both {contrast} and {other}")
        self.whole, self.contrast, self.other = list(subjects), contrast, other
        super().__init__([_only(subject, contrast) for subject in subjects], settings)
        self.second = PairMaker([_only(subject, other) for subject in subjects], settings)

    def __call__(self, count: int, generator: torch.Generator) -> PairBatch:
        """Draw `count` pairs."""
        return self.restyled(count, generator).pairs

    def restyled(self, count: int, generator: torch.Generator) -> RestyledBatch:
        """The same pairs with the true difference; `pairs.moving` shows `other`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        first = super().__call__(count, torch.Generator().manual_seed(seed))
        second = self.second(count, torch.Generator().manual_seed(seed))
        pairs = replace(first, moving=second.moving)
        return RestyledBatch(second.moving, first.fixed, first.fixed - first.moving, pairs)

    def with_subjects(self, subjects: Sequence[Subject]) -> "AcrossMaker":
        """Other subjects, the same settings."""
        return AcrossMaker(subjects, self.settings, self.contrast, self.other)

    def with_settings(self, settings: PairSettings) -> "AcrossMaker":
        """The same subjects, other settings."""
        return AcrossMaker(self.whole, settings, self.contrast, self.other)


def _only(subject: Subject, contrast: str) -> Subject:
    return replace(subject, images={contrast: subject.images[contrast]}, labels=None)
