"""Pairs to learn the local error in mm from: motions from a tenth of a mm to 20 mm, and parts that do not belong together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from scipy import ndimage

from regsim.misalign.appearance import Appearance
from regsim.misalign.motion import Range
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings
from regsim.misalign.sources import Subject
from regsim.misalign.unrelated import UnrelatedSettings, with_unrelated
from regsim.settings import Settings

CLOSING, MARGIN = 3, 1
NOTHING = UnrelatedSettings(other=0, noise=0, turned=0, missing=0, patch=0)


class ErrorDraw(Settings):
    """One way to draw pairs.

    Args:
        error, distribution, elastic_error: see `MotionSettings`.
        appearance, painted_only: see `PairSettings`; as in `pairs` where not given.
    """

    error: Range = (0.1, 20.0)
    distribution: Literal["uniform", "log"] = "log"
    elastic_error: float = Field(default=8.0, gt=0)
    appearance: tuple[Appearance, ...] | None = None
    painted_only: float | None = Field(default=None, ge=0, le=1)


DRAWS = (
    ErrorDraw(),
    ErrorDraw(error=(0.0, 20.0), distribution="uniform"),
    ErrorDraw(error=(0.1, 5.0), elastic_error=4.0),
)


class ErrorPairSettings(Settings):
    """How pairs are made.

    Args:
        pairs: as for other metrics; `motion.error`, its distribution and `elastic_error` come from `draws`.
        draws: each batch takes one of them. Exact zeros are never drawn: an atom at 0 breaks every quantile.
        unrelated: see there.
        stripped: whole heads with label maps come a second time, with everything but what is labelled removed.
    """

    pairs: PairSettings = PairSettings()
    draws: tuple[ErrorDraw, ...] = Field(default=DRAWS, min_length=1)
    unrelated: UnrelatedSettings = UnrelatedSettings()
    stripped: bool = True


@dataclass(frozen=True)
class ErrorPairs:
    """A batch of pairs, and `(N, 1, *spatial)`: 1 where the two images have nothing to do with each other."""

    batch: PairBatch
    unrelated: torch.Tensor


class ErrorPairMaker:
    """Draws batches: `maker(count, generator) -> ErrorPairs`.

    Args:
        subjects: at least one.
        settings: see `ErrorPairSettings`.

    Raises:
        InputError: no subject, or one that is too small.
    """

    def __init__(self, subjects: Sequence[Subject], settings: ErrorPairSettings):
        self.settings = settings
        self.subjects = with_stripped(subjects) if settings.stripped else list(subjects)
        self.makers = [PairMaker(self.subjects, _drawing(settings.pairs, draw)) for draw in settings.draws]

    @property
    def spacing(self) -> float:
        """Of the pairs' voxels."""
        return self.settings.pairs.spacing

    def __call__(self, count: int, generator: torch.Generator, unrelated: bool = True) -> ErrorPairs:
        """Draw `count` pairs, all by one of the draws; without `unrelated` all of them belong together."""
        chosen = int(torch.randint(len(self.makers), (), generator=generator))
        batch = self.makers[chosen](count, generator)
        settings = self.settings.unrelated if unrelated else NOTHING
        return ErrorPairs(*with_unrelated(batch, settings, generator))


def with_stripped(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects, and after them those that show more than their labels say, without the rest."""
    whole = [subject for subject in subjects if subject.images and subject.labels is not None]
    return [*subjects, *(_stripped(subject) for subject in whole if not subject.empty_outside)]


def _drawing(pairs: PairSettings, draw: ErrorDraw) -> PairSettings:
    errors = {name: getattr(draw, name) for name in ("error", "distribution", "elastic_error")}
    changes: dict[str, object] = {"motion": pairs.motion.model_copy(update={**errors, "aligned": 0.0})}
    for name in ("appearance", "painted_only"):
        if getattr(draw, name) is not None:
            changes[name] = getattr(draw, name)
    return pairs.model_copy(update=changes)


def _stripped(subject: Subject) -> Subject:
    """The same person, so that no split parts the two."""
    assert subject.labels is not None
    labelled = subject.labels.numpy() > 0
    closed = ndimage.binary_dilation(ndimage.binary_closing(labelled, iterations=CLOSING), iterations=MARGIN)
    kept = torch.from_numpy(closed)
    images = {name: volume * kept for name, volume in subject.images.items()}
    return replace(
        subject, name=f"{subject.person}/stripped", images=images, seen=kept & subject.seen, empty_outside=True
    )
