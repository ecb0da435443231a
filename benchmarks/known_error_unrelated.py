"""Images that do not belong together: the set "unrelated" of `benchmarks.known_error_pairs`.

Nothing corresponds, so the errors are 0 and say nothing (`related` is False). One kind is different: of "half missing", the
half that is there corresponds, its error is the true one, and `moved.mask` says where there is data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.known_error_motion import CONTRASTS, Head, Heads, draw_parting, head_of
from benchmarks.known_error_pairs import (
    SPACING,
    KnownErrorPair,
    PairSet,
    assembled,
    generator_for,
    label_of,
    noisy,
    ordered,
    shuffled,
)
from regsim.images import Grid, Image, read_image
from regsim.prepare import gaussian
from regsim.transforms import Affine, Composite, Rigid, Transform

AXES = ("left-right", "front-back", "up-down")
TURNED, AWAY, APART = (20.0, 40.0), (15.0, 30.0), (0.0, 3.0)
BLOBS = (1.5, 4.0)
SLAB, CLEAR = 0.1, (0.85, 1.0)
PHANTOM_TURN = 90.0


@dataclass(frozen=True)
class View:
    """One contrast of a head, read through a map."""

    head: Head
    contrast: str
    at: Transform

    def on(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, and where they are data."""
        return self.head.shown(self.contrast, self.at, grid)

    def mask(self, grid: Grid) -> torch.Tensor:
        """Where there is anatomy."""
        return replace(self.head, images={"seen": self.head.seen}).shown("seen", self.at, grid)[0] > 0.5


def strangers(kind: str, fixed: View, moved: View, generator: torch.Generator, name: str = "") -> KnownErrorPair:
    """A pair without correspondence, on the grid of the fixed head."""
    grid = fixed.head.grid(SPACING)
    values, held = moved.on(grid)
    contents = Image(noisy(values, held, moved.head.stripped, generator), grid, held.float(), moved.contrast)
    return against(kind, fixed, contents, generator, name)


def against(kind: str, fixed: View, moved: Image, generator: torch.Generator, name: str = "") -> KnownErrorPair:
    """A head against any contents of its grid; the contents' mask says where they are data."""
    values, held = fixed.on(moved.grid)
    both = held if moved.mask is None else held & (moved.mask > 0)
    shown = noisy(values, both, fixed.head.stripped, generator)
    return KnownErrorPair(
        name,
        fixed.head.person,
        label_of((fixed.contrast, moved.name)),
        kind,
        Image(shown, moved.grid, name=fixed.contrast),
        Image(moved.data * both, moved.grid, name=moved.name),
        fixed.mask(moved.grid) & both,
        torch.zeros((1, *moved.grid.shape)),
        related=False,
    )


# --- maps -------------------------------------------------------------------------------------------------------------


def common_map(head: Head, generator: torch.Generator) -> Composite:
    """A motion with a bend, as both images of any pair have."""
    return draw_parting("rigid", 0.0, head, generator).fixed


def after(outer: Composite, *inner: Transform) -> Composite:
    """Other maps first, then this chain."""
    return Composite([*outer.parts(), *inner]).requires_grad_(False)


def mirror(axis: int) -> Affine:
    """Mirrors x, y or z about the middle of the head.

    >>> mirror(0)(torch.tensor([[3.0, 4.0, 5.0]])).tolist()
    [[-3.0, 4.0, 5.0]]
    """
    whole = torch.eye(4, dtype=torch.float64)
    whole[axis, axis] = -1
    return Affine(3).set_homogeneous(whole)


def turn(degrees: tuple[float, float], generator: torch.Generator) -> Rigid:
    """About a random axis through the middle."""
    return _rigid("rotation", tuple(math.radians(value) for value in degrees), generator)


def shift(length: tuple[float, float], generator: torch.Generator, axis: int | None = None) -> Rigid:
    """In a random direction, or along one axis either way; mm."""
    return _rigid("translation", length, generator, axis)


def _rigid(what: str, size: tuple[float, ...], generator: torch.Generator, axis: int | None = None) -> Rigid:
    way = torch.randn(3, generator=generator, dtype=torch.float64)
    if axis is not None:
        way = torch.sign(way[axis]) * torch.eye(3, dtype=torch.float64)[axis]
    low, high = size
    found = Rigid(3)
    with torch.no_grad():
        length = low + (high - low) * float(torch.rand((), generator=generator))
        getattr(found, what).copy_(way / way.norm() * length)
    return found


def another(heads: Heads, person: str, contrast: str, generator: torch.Generator) -> Head:
    """Somebody else's head that has this contrast."""
    names = heads.names("T1-T1" if contrast == "T1" else f"T1-{contrast}")
    names = tuple(name for name in names if name.partition("/")[0] != person)
    return heads.read(names[_number(len(names), generator)])


def _number(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


# --- kinds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What a kind starts from: the fixed view, the contrast of the moved image, the turn (0, 1 ...)."""

    heads: Heads
    fixed: View
    contrast: str
    turn: int
    generator: torch.Generator

    @property
    def own(self) -> Composite:
        """Another common map of the fixed head."""
        return common_map(self.fixed.head, self.generator)


Made = tuple[str, KnownErrorPair]
"""What to add to the name, and the pair."""


def other_organ(draw: Draw) -> Made:
    """A T2 scan of meat with bone against a T1 image of a head, either of them fixed."""
    scan = replace(read_image(draw.heads.place / "ct_mr" / "phantom_t2.nii.gz"), name="T2")
    meat = head_of("phantom", "phantom", [scan], SPACING, stripped=False)
    at = after(common_map(meat, draw.generator), turn((0.0, PHANTOM_TURN), draw.generator))
    head, phantom = replace(draw.fixed, contrast="T1"), View(meat, "T2", at)
    if draw.turn % 2:
        return "phantom fixed", strangers("other organ", phantom, head, draw.generator)
    return "phantom moved", strangers("other organ", head, phantom, draw.generator)


def smooth_noise(draw: Draw) -> Made:
    """Blobs, over the whole grid or within the head's outline."""
    grid = draw.fixed.head.grid(SPACING)
    sigma = BLOBS[0] + (BLOBS[1] - BLOBS[0]) * float(torch.rand((), generator=draw.generator))
    blobs = gaussian(torch.randn((1, 1, *grid.shape), generator=draw.generator), (sigma,) * 3)[0]
    blobs = (0.5 + 0.2 * blobs / blobs.std()).clamp(0, 1)
    outlined = draw.turn % 2 == 0
    if outlined:
        blobs = blobs * View(draw.fixed.head, draw.contrast, draw.own).mask(grid)
    moved = Image(noisy(blobs, blobs > 0, outlined, draw.generator), grid, name=draw.contrast)
    return "outlined" if outlined else "everywhere", against("smooth noise", draw.fixed, moved, draw.generator)


def flipped(axis: int) -> Callable[[Draw], Made]:
    """The same head mirrored, its middle in place."""

    def make(draw: Draw) -> Made:
        moved = View(draw.fixed.head, draw.contrast, after(draw.own, mirror(axis)))
        return AXES[axis], strangers("flipped", draw.fixed, moved, draw.generator)

    return make


def not_overlapping(draw: Draw) -> Made:
    """Shifted by about the size of the head, or all but a tenth of the field empty."""
    axis, grid = _number(3, draw.generator), draw.fixed.head.grid(SPACING)
    if draw.turn % 2 == 0:
        length = float(draw.fixed.head.grid(SPACING, 0.0).extent[axis])
        away = shift((CLEAR[0] * length, CLEAR[1] * length), draw.generator, axis)
        # what lies beyond the borders of its scan counts as dark: else nothing would be left to compare
        moved = View(replace(draw.fixed.head, stripped=True), draw.contrast, after(draw.own, away))
        return f"shifted {AXES[axis]}", strangers("not overlapping", draw.fixed, moved, draw.generator)
    moved = View(draw.fixed.head, draw.contrast, draw.fixed.at)
    values, held = moved.on(grid)
    slab = _slab(grid, axis, draw.generator)
    image = Image(noisy(values, held, moved.head.stripped, draw.generator) * slab, grid, name=draw.contrast)
    return f"slab {AXES[axis]}", against("not overlapping", draw.fixed, image, draw.generator)


def _slab(grid: Grid, axis: int, generator: torch.Generator) -> torch.Tensor:
    """A tenth of the grid, somewhere in its inner half along an axis, `(1, *shape)` bool."""
    length = grid.size[axis]
    thick = max(1, round(SLAB * length))
    first = length // 4 + _number(length // 2 - thick, generator)
    return _between(grid, axis, first, first + thick)


def _between(grid: Grid, axis: int, first: int, last: int) -> torch.Tensor:
    index = grid.indices()[..., axis]
    return ((index >= first) & (index < last))[None]


def other_head(draw: Draw) -> Made:
    """Somebody else's head, middles together: as it is, turned by 20 degrees or more, or shifted by 15 mm or more."""
    stranger = another(draw.heads, draw.fixed.head.person, draw.contrast, draw.generator)
    at, how = common_map(stranger, draw.generator), ("centred", "turned", "shifted")[draw.turn % 3]
    if how == "turned":
        at = after(at, turn(TURNED, draw.generator))
    elif how == "shifted":
        at = after(at, shift(AWAY, draw.generator))
    moved = View(stranger, draw.contrast, at)
    return f"{stranger.name} {how}", strangers("other head", draw.fixed, moved, draw.generator)


def half_missing(draw: Draw) -> Made:
    """Up to 3 mm apart, and half of the moved image's field is zero; the mask stays whole, the error is the true one."""
    head, axis = draw.fixed.head, _number(3, draw.generator)
    target = APART[0] + (APART[1] - APART[0]) * float(torch.rand((), generator=draw.generator))
    parting = draw_parting("mixed", target, head, draw.generator)
    contrasts, grid = (draw.fixed.contrast, draw.contrast), head.grid(SPACING)
    whole = assembled("", "half missing", head, contrasts, (parting.fixed, parting.moving), grid, draw.generator)
    middle, upper = grid.size[axis] // 2, bool(_number(2, draw.generator))
    shown = _between(grid, axis, middle if upper else 0, grid.size[axis] if upper else middle)
    moved = Image(whole.moved.data * shown, grid, shown.float(), draw.contrast)
    return AXES[axis], replace(whole, moved=moved)


KINDS: tuple[Callable[[Draw], Made], ...] = (
    other_organ, other_head, flipped(0), smooth_noise, half_missing, flipped(1), not_overlapping, other_head, flipped(2),
)  # fmt: skip
ROUNDS = 12


def draw_unrelated(heads: Heads, index: int, seed: int) -> KnownErrorPair:
    """Pair `index`: the kinds in turn, contrasts changing from round to round."""
    generator = generator_for(seed, index, 2)
    turns, place = divmod(index, len(KINDS))
    contrasts = CONTRASTS[(turns + place) % 3]
    head = heads.read(shuffled(heads.names(contrasts), turns, seed + 20 + place))
    first, second = ordered(contrasts, generator)
    fixed = View(head, first, common_map(head, generator))
    # every kind meets its variants and contrasts in all combinations
    remark, pair = KINDS[place](Draw(heads, fixed, second, turns // 3 + place // 7, generator))
    return replace(pair, name=f"{index:04d} {head.name} {pair.contrasts} {pair.kind} {remark}")


UNRELATED = PairSet(len(KINDS) * ROUNDS, draw_unrelated)
