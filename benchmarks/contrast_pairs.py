"""Pairs of known error across contrasts, easy and hard, for `benchmarks.contrasts`.

Every pair is drawn by `regsim.misalign.pairs.PairMaker` (both images resampled once, from one motion common to both and one
that parts them), then both images are degraded:

| condition | what is done | mask |
| --- | --- | --- |
| easy | noise of its own in each image, sigma .01 to .03 | anatomy |
| bias | the same, after a smooth field of exp(-1) to exp(1) at most in each image | anatomy |
| noise | noise of sigma .1 in each image | anatomy |
| slices | one image in slices of 4 mm along one axis; noise as in easy | anatomy |
| half | one image holds data in one half of the head only; noise as in easy | anatomy in that half |
| hidden | only a ball (disc) or box within the head is shown; noise as in easy | anatomy in it |

"Anatomy" is the pair maker's `content`: where both images hold data and the fixed one shows anatomy. All metrics get this
mask, and the true error is the mean over it. The motion of a pair is one for all conditions, the rest is drawn for each.

Groups: `aligned`; `1mm` and `2mm`, of that error within 1 %; `ladder`, with errors evenly over 0 to 8 mm. Even numbers move
rigidly, odd ones bend. Pairs of one number in the first three groups are twins: the same cut, noise, bias and direction of the
motion, but for its size. A pair depends on its names only, so a run with fewer pairs has the first ones of a run with more.

Both images of an aligned pair are read at the same points of one lattice, so the little blur that interpolation leaves coincides.
In planes of 1 mm with much fine noise of their own this lowers the cost of aligned pairs somewhat; in volumes hardly.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.contrast_subjects import Case
from regsim.misalign.appearance import Appearance, BiasField, Chain, Downsampled, Noise
from regsim.misalign.motion import CommonSettings, MotionSettings
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings
from regsim.misalign.window import WindowSettings, draw_window

QUIET = Noise(sigma=(0.01, 0.03))
CHANGES: dict[str, tuple[Appearance, ...]] = {
    "easy": (QUIET,),
    "bias": (BiasField(strength=(0.7, 1.0)), QUIET),
    "noise": (Noise(sigma=(0.1, 0.1)),),
    "slices": (QUIET,),
    "half": (QUIET,),
    "hidden": (QUIET,),
}
CONDITIONS = tuple(CHANGES)
EXACT = {"aligned": 0.0, "1mm": 1.0, "2mm": 2.0}
LADDER, LARGEST, GOLDEN = "ladder", 8.0, 0.6180339887
SLICE = 4.0
COMMON = CommonSettings(rotation=8.0, translation=4.0, zoom=1.05, shear=0.02, flips=False)
SMOOTHNESS = (15.0, 30.0)
OPEN = WindowSettings(disc=0.0, box=0.0)
HIDING = WindowSettings(disc=0.5, box=0.5, smallest=0.25, largest=0.4)
INSIDE, TRIES = 0.9, 60
CLOSE, PASSES = 0.01, 5
MARGIN = 4


@dataclass(frozen=True)
class Wanted:
    """One pair of a case: its group and its number there."""

    group: str
    number: int

    @property
    def error(self) -> float:
        """What is aimed at, mm; of a ladder evenly spread for any count (the golden ratio's multiples)."""
        if self.group in EXACT:
            return EXACT[self.group]
        return LARGEST * ((self.number + 0.5) * GOLDEN % 1)

    @property
    def drawn(self) -> str:
        """What its draws depend on: twins share theirs."""
        return f"{'twins' if self.group in EXACT else self.group} {self.number}"

    @property
    def bends(self) -> bool:
        """Whether the images part elastically."""
        return self.number % 2 == 1


def wanted_pairs(count: int, ladder: int) -> Iterator[Wanted]:
    """`count` of each exact error, and the ladder."""
    for group in EXACT:
        yield from (Wanted(group, number) for number in range(count))
    yield from (Wanted(LADDER, number) for number in range(ladder))


@dataclass(frozen=True)
class ContrastPair:
    """Two images of one anatomy in two contrasts.

    Args:
        fixed, moving: `(1, 1, *spatial)` in [0, 1], 0 where there is no data.
        mask: alike, 1 where they are to be compared.
        error: mean true error over the mask, mm.
    """

    fixed: torch.Tensor
    moving: torch.Tensor
    mask: torch.Tensor
    error: float

    def cropped(self) -> "ContrastPair":
        """The part around the mask."""
        there = self.mask[0, 0].nonzero()
        ends = zip((there.amin(dim=0) - MARGIN).clamp_min(0).tolist(), there.amax(dim=0).tolist(), strict=True)
        part = (slice(None), slice(None), *(slice(low, high + MARGIN + 1) for low, high in ends))
        return ContrastPair(*(each[part].contiguous() for each in (self.fixed, self.moving, self.mask)), self.error)


@dataclass(frozen=True)
class _Placed:
    """A pair without noise, and the part of it that is compared."""

    batch: PairBatch
    mask: torch.Tensor
    error: float


class ContrastPairs:
    """The pairs of one case: `pairs.pair(wanted, condition)`."""

    def __init__(self, case: Case):
        self.case = case
        self._last: Wanted | None = None
        self._drawn: dict[float, PairBatch] = {}
        self._whole: _Placed | None = None

    @torch.no_grad()
    def pair(self, wanted: Wanted, condition: str) -> ContrastPair:
        """One pair. Its conditions are cheapest one after the other, since they share their motion."""
        if wanted != self._last:
            self._last, self._drawn, self._whole = wanted, {}, None
        placed = self._place(wanted, condition)
        generator = self._generator("looks", condition, wanted.drawn)
        fixed, moving = degraded(placed.batch, condition, self.case.spacing, generator)
        data = placed.mask if condition == "hidden" else placed.batch.mask
        held = [data, data]
        if condition == "half":
            held[self._halved(wanted)] = data * self._part(wanted, condition, placed.batch)
        return ContrastPair(fixed * held[0], moving * held[1], placed.mask, placed.error).cropped()

    def _place(self, wanted: Wanted, condition: str) -> _Placed:
        """Draw until the error over the mask is the one wanted; ladders keep what they get."""
        whole = condition not in ("half", "hidden")
        if whole and self._whole is not None:
            return self._whole
        target = wanted.error
        for _ in range(PASSES):
            batch = self._draw(wanted, target)
            mask = batch.content if whole else batch.content * self._part(wanted, condition, batch)
            error = mean_error(batch, mask)
            if wanted.group == LADDER or abs(error - wanted.error) <= CLOSE * wanted.error:
                break
            target *= wanted.error / error
        placed = _Placed(batch, mask, error)
        self._whole = placed if whole else self._whole
        return placed

    def _draw(self, wanted: Wanted, target: float) -> PairBatch:
        if target not in self._drawn:
            maker = PairMaker([self.case.subject], pair_settings(self.case, wanted.bends, target))
            self._drawn[target] = maker(1, self._generator("motion", wanted.drawn))
        return self._drawn[target]

    def _part(self, wanted: Wanted, condition: str, batch: PairBatch) -> torch.Tensor:
        """What is shown: a half of the field of view, or a window within the anatomy."""
        generator = self._generator("part", condition, wanted.drawn)
        return half(batch.content, generator) if condition == "half" else window(batch.content, generator)

    def _halved(self, wanted: Wanted) -> int:
        """Which image of a pair loses a half."""
        return int(torch.randint(2, (), generator=self._generator("halved", wanted.drawn)))

    def _generator(self, *words: object) -> torch.Generator:
        case = self.case
        return torch.Generator().manual_seed(seed_of(case.dims, case.set, case.subject.name, *words))


def seed_of(*words: object) -> int:
    """A seed from names.

    >>> seed_of(3, "t1_t2", "easy")
    218040148281171
    """
    text = "/".join(str(word) for word in words).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


def pair_settings(case: Case, bends: bool, target: float) -> PairSettings:
    """Two contrasts, parted by about `target` mm; rigidly, or by a smooth field of at most 8 mm."""
    aligned = target == 0
    motion = MotionSettings(
        error=(0.0, LARGEST) if aligned else (target, target),
        aligned=float(aligned),
        rigid=float(not bends),
        elastic=float(bends),
        elastic_error=max(LARGEST, target),
        smoothness=SMOOTHNESS,
        common=COMMON,
    )
    dims: Literal[2, 3] = 3 if case.dims == 3 else 2
    return PairSettings(
        dims=dims, size=case.size, spacing=case.spacing, pairing=("contrasts",), motion=motion, window=OPEN
    )


def mean_error(batch: PairBatch, mask: torch.Tensor) -> float:
    """Mean length of the displacement over a mask, mm."""
    length = batch.displacement.norm(dim=1, keepdim=True)
    return float((length * mask).sum() / mask.sum().clamp_min(1))


def degraded(
    batch: PairBatch, condition: str, spacing: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both images as a condition leaves them."""
    images = [batch.fixed, batch.moving]
    if condition == "slices":
        chosen = int(torch.randint(2, (), generator=generator))
        thick = Downsampled(factor=(SLICE / spacing, SLICE / spacing), per_axis=1.0)
        images[chosen] = thick(images[chosen], generator)
    chain = Chain(changes=CHANGES[condition])
    return chain(images[0], generator), chain(images[1], generator)


def half(content: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """1 on one side, drawn, of a plane through the middle of the content, across an axis that is drawn."""
    axis = int(torch.randint(content.ndim - 2, (), generator=generator)) + 2
    upper = bool(torch.randint(2, (), generator=generator))
    middle = round(float(content.nonzero()[:, axis].float().mean()))
    shown = torch.zeros_like(content)
    start, length = (middle, content.shape[axis] - middle) if upper else (0, middle)
    shown.narrow(axis, start, length).fill_(1)
    return shown


def window(content: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """1 in a ball (disc) or box, nine tenths of which show anatomy; the best of sixty draws where none does."""
    best, most = content, -1.0
    for _ in range(TRIES):
        shown = draw_window(1, tuple(content.shape[2:]), HIDING, generator)
        share = float((shown * content).sum() / shown.sum().clamp_min(1))
        if share > most:
            best, most = shown, share
        if share >= INSIDE:
            break
    return best
