"""Registrations that went wrong beside ones that went well: the set "failures" of `benchmarks.known_error_pairs`.

Every kind is checked against the truth and drawn again where it does not hold: "good" ones leave less than 1 mm on
average, a "wrong start" leaves more than 10 mm, and so on. Without correspondence (`related` False) are "flip" and
"wrong subject".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.known_error_motion import CONTRASTS, Head, Heads, Parting, draw_parting
from benchmarks.known_error_pairs import SPACING, KnownErrorPair, PairSet, assembled, generator_for, ordered, shuffled
from benchmarks.known_error_residuals import METHODS, Case, case_of, chained, image_of, ours, planned, remaining
from benchmarks.known_error_unrelated import AXES, View, after, another, common_map, mirror, strangers, turn
from regsim.registration import Schedule, register, schedule_for
from regsim.registration.schedule import Level, Stage
from regsim.transforms import Transform

TRIES = 8
GOOD, ONE_MM = (0.1, 0.9), 1.0
FAR_TURN, FAR = (50.0, 100.0), 10.0
SHIFTED, STUCK = (10.0, 20.0), (8.0, 22.0)
WARPED, FOLDED = (3.0, 8.0), 0.01
CAPTURED = (4.0, 12.0)


@dataclass(frozen=True)
class Start:
    """What a kind starts from: a head, its contrasts in order, the turn (0, 1 ...)."""

    heads: Heads
    head: Head
    contrasts: tuple[str, str]
    turn: int
    generator: torch.Generator

    def parting(self, kind: str, error: tuple[float, float]) -> Parting:
        """Two maps that part by an error within these ends."""
        target = error[0] + (error[1] - error[0]) * float(torch.rand((), generator=self.generator))
        return draw_parting(kind, target, self.head, self.generator, (0.1, 0.3))

    def case(self, kind: str, error: tuple[float, float]) -> Case:
        """The two images of such a pair."""
        parting = self.parting(kind, error)
        return case_of(self.head, self.contrasts, (parting.fixed, parting.moving), self.generator)


Made = tuple[str, KnownErrorPair] | None
"""What to add to the name, and the pair; None where the draw did not show what it should."""


def small_motion(start: Start) -> Made:
    """Nothing was registered: the images part a little."""
    parting = start.parting("rigid" if start.turn % 2 else "mixed", GOOD)
    maps, grid = (parting.fixed, parting.moving), start.head.grid(SPACING)
    return "small motion", assembled("", "good", start.head, start.contrasts, maps, grid, start.generator)


def registered(start: Start) -> Made:
    """A registration that left less than 1 mm of 4 to 12 mm; a deformation within one contrast only: across it leaves more."""
    kind, goal = ("rigid", "rigid") if start.turn % 2 == 0 else ("affine", "affine")
    if goal == "affine" and start.contrasts == ("T1", "T1"):
        kind, goal = "mixed", "deformable"
    case = start.case(kind, CAPTURED)
    found = METHODS[f"regsim {goal}"](case.fixed, case.moving)
    pair = remaining("", "good", case, found, start.generator)
    return (f"registered {goal}", pair) if pair.mean_error < ONE_MM else None


def wrong_start(start: Start) -> Made:
    """A rigid registration from 50 to 100 degrees off."""
    case = start.case("rigid", (1.0, 5.0))
    far = turn(FAR_TURN, start.generator)
    found = register(case.fixed, case.moving, None, "rigid", initial=far).transform
    pair = remaining("", "wrong start", case, found, start.generator)
    return ("rigid", pair) if pair.mean_error > FAR else None


def flip(start: Start) -> Made:
    """Mirrored left-right or up-down, then registered."""
    axis = 0 if start.turn % 2 == 0 else 2
    parting = start.parting("rigid", (1.0, 5.0))
    return AXES[axis], _strange(start, "flip", start.head, parting.fixed, after(parting.moving, mirror(axis)))


def wrong_subject(start: Start) -> Made:
    """Somebody else's head, registered."""
    stranger = another(start.heads, start.head.person, start.contrasts[1], start.generator)
    here, there = common_map(start.head, start.generator), common_map(stranger, start.generator)
    return stranger.name, _strange(start, "wrong subject", stranger, here, there)


def _strange(start: Start, kind: str, other: Head, here: Transform, there: Transform) -> KnownErrorPair:
    """Rigid registration of two views that do not correspond, and the pair that it leaves."""
    fixed = image_of(start.head, start.contrasts[0], here, start.generator)
    moving = image_of(other, start.contrasts[1], there, start.generator)
    found = planned(fixed, moving, "rigid")
    moved = View(other, start.contrasts[1], chained(there, found))
    return strangers(kind, View(start.head, start.contrasts[0], here), moved, start.generator)


def local_minimum(start: Start) -> Made:
    """A shift or turn of 10 to 20 mm that a few short steps at full resolution could not undo."""
    case = start.case("rigid", SHIFTED)
    metric = "ncc" if start.contrasts == ("T1", "T1") else "mind"
    stage = Stage(transform="rigid", metric=metric, levels=(Level(spacing=SPACING, steps=3, step=0.1),))
    found = ours(case.fixed, case.moving, "rigid", Schedule(stages=(stage,), start="identity"))
    pair = remaining("", "local minimum", case, found, start.generator)
    return (metric, pair) if STUCK[0] < pair.mean_error < STUCK[1] else None


def over_warped(start: Start) -> Made:
    """A deformation with almost no smoothness: it folds in at least one voxel of a hundred of the head.

    Where it folds, a point may have several places in the moved image: one of them counts; where none is found, the mask ends.
    """
    case = start.case("mixed", WARPED)
    plan = schedule_for("deformable", case.fixed.grid, "mind")
    levels = tuple(level.model_copy(update={"step": 2.5 * level.step}) for level in plan.stages[-1].levels)
    wild = plan.stages[-1].model_copy(update={"penalties": {"diffusion": 1e-4}, "levels": levels})
    found = ours(case.fixed, case.moving, "deformable", plan.model_copy(update={"stages": (*plan.stages[:-1], wild)}))
    pair = remaining("", "over-warped", case, found, start.generator)
    with torch.no_grad():
        folded = float((found.jacobian_determinant(case.fixed.grid)[pair.mask[0]] <= 0).float().mean())
    return (f"{100 * folded:.0f} % folded", pair) if folded > FOLDED else None


KINDS: tuple[Callable[[Start], Made], ...] = (
    small_motion, wrong_start, registered, flip, local_minimum, wrong_subject, over_warped,
)  # fmt: skip
ROUNDS = 9


def draw_failure(heads: Heads, index: int, seed: int) -> KnownErrorPair:
    """Pair `index`: the kinds in turn, contrasts changing from round to round; several tries where a kind does not show.

    Raises:
        RuntimeError: no try showed it.
    """
    turns, place = divmod(index, len(KINDS))
    for attempt in range(TRIES):
        generator = generator_for(seed, index + 10_000 * attempt, 3)
        contrasts = CONTRASTS[(turns + place) % 3]
        head = heads.read(shuffled(heads.names(contrasts), turns + attempt, seed + 40 + place))
        made = KINDS[place](Start(heads, head, ordered(contrasts, generator), turns // 3 + place, generator))
        if made is not None:
            remark, pair = made
            return replace(pair, name=f"{index:04d} {head.name} {pair.contrasts} {pair.kind} {remark}")
    raise RuntimeError(f"pair {index}: none of {TRIES} draws showed '{KINDS[place].__name__}'")


FAILURES = PairSet(len(KINDS) * ROUNDS, draw_failure)
