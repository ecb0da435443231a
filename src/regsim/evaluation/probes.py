"""Probes: known misalignments and known changes of intensity, drawn once and shown to every metric."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from regsim.evaluation.canvas import Canvas, Disc, Look
from regsim.evaluation.landscape_settings import LandscapeSettings
from regsim.transforms.base import Transform
from regsim.transforms.control_grid import ControlGrid
from regsim.transforms.dense import Composite, DisplacementField
from regsim.transforms.linear import Rigid, Similarity

KINDS = ("shift", "rotation", "rigid", "elastic")
KINDS_IN_DISC = ("shift", "rigid", "elastic")
CELLS = 4
SIZING_STEPS = 8
LARGEST_TURN = 30.0
SLIGHTEST = 0.05
ELASTIC_LIMIT = 8.0
AS_STORED = Look()


@dataclass(frozen=True)
class Known:
    """What is known about a probe that was shown: all of it but the motion, which may be large."""

    group: str
    kind: str
    amount: float
    second: float
    error: float


@dataclass(frozen=True, eq=False)
class Probe:
    """One pair of images to be compared, and what is known about it.

    Args:
        group: what it is for: surface, wide, axis, fine, fine_noise, fine_self, nuisance, balance, ladder, distance,
            hidden, hidden_distance, swapped.
        kind: what was done: "shift x", "rotation z", "noise", ...
        amount: how much of it: unit, degrees, percent, sigma.
        motion: fixed points to moving points; the misalignment.
        tilt: what both images have in common.
        error: true error, unit: mean displacement over the body, or over what the disc shows of it.
        second: the other axis of a surface (degrees).
        look: how the images are shown.
        disc: all that is shown; None for everything.
    """

    group: str
    kind: str
    amount: float
    motion: Transform
    tilt: Rigid
    error: float
    second: float = 0.0
    look: Look = AS_STORED
    disc: Disc | None = None

    def known(self) -> Known:
        """What to remember of it."""
        return Known(self.group, self.kind, self.amount, self.second, self.error)


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draws the probes of one pair."""

    canvas: Canvas
    settings: LandscapeSettings
    generator: torch.Generator
    tilt: Rigid = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tilt", self.canvas.tilt(self.generator))

    # --- motions ----------------------------------------------------------------------------------------------------

    def linear(self, shift: torch.Tensor | None = None, degrees: torch.Tensor | None = None, scale: float = 1) -> Rigid:
        """A shift along the grid's axes (unit), a rotation (degrees; 1 or 3 numbers) and a scale about the body's centre."""
        made = Similarity(self.canvas.grid.ndim, self.canvas.centre.numpy())
        with torch.no_grad():
            if shift is not None:
                made.translation.copy_(torch.tensor(self.canvas.grid.direction, dtype=torch.float64) @ shift.double())
            if degrees is not None:
                made.rotation.copy_(torch.deg2rad(degrees.double()))
            made.log_scale.fill_(math.log(scale))
        return made

    def still(self) -> Rigid:
        """No misalignment."""
        return self.linear()

    def axis_shift(self, axis: int, amount: float) -> Rigid:
        """A shift along one axis of the grid."""
        shift = torch.zeros(self.canvas.grid.ndim)
        shift[axis] = amount
        return self.linear(shift)

    def axis_turn(self, axis: int, degrees: float, shift: float = 0.0) -> Rigid:
        """A rotation about one axis (x, y, z; in 2-D there is one), and a shift along x."""
        turns = torch.zeros(1 if self.canvas.grid.ndim == 2 else 3)
        turns[axis if self.canvas.grid.ndim == 3 else 0] = degrees
        move = torch.zeros(self.canvas.grid.ndim)
        move[0] = shift
        return self.linear(move, turns)

    def bend(self) -> torch.Tensor:
        """A smooth random field `(ndim, *shape)` with a mean length of 1 over the body: cubic B-splines, 4 cells an axis."""
        grid = self.canvas.grid
        bend = ControlGrid(grid, (CELLS,) * grid.ndim)
        with torch.no_grad():
            bend.coefficients.copy_(torch.randn(bend.coefficients.shape, generator=self.generator))
            drawn = bend.displacement(grid).movedim(-1, 0)
            mean = torch.linalg.vector_norm(drawn, dim=0)[self.canvas.outline].mean()
        scaled: torch.Tensor = drawn / mean
        return scaled

    def elastic(self, amount: float) -> DisplacementField:
        """A new bend of a mean length."""
        return DisplacementField(self.bend() * amount, self.canvas.grid)

    def of_error(self, kind: str, error: float, points: torch.Tensor) -> Transform:
        """A random misalignment of a kind with a true error over some points; an elastic one is completed by a shift above 8."""
        way = torch.randn(self.canvas.grid.ndim, generator=self.generator)
        way = way / way.norm()
        if kind == "shift" or error == 0:
            return self.linear(way * error)
        if kind == "elastic":
            bend, bent = self.bend(), min(error, ELASTIC_LIMIT)
            size = bent / max(mean_error(DisplacementField(bend, self.canvas.grid), points), SLIGHTEST)
            bending = DisplacementField(bend * size, self.canvas.grid)
            if error <= ELASTIC_LIMIT:
                return bending
            return self._sized(lambda size: Composite([self.linear(way * size), bending]), error, points)
        axis = torch.randn(1 if self.canvas.grid.ndim == 2 else 3, generator=self.generator)
        axis = axis / axis.norm()
        degrees = axis / max(mean_error(self.linear(None, axis), points), 1e-6)
        if kind == "rotation":
            return self._sized(lambda size: self.linear(None, degrees * size), error, points)
        share = 0.3 + 0.4 * float(torch.rand((), generator=self.generator))

        def both(size: float) -> Rigid:
            # a small disc at the centre of the turn could not be moved far by any rotation: the shift does the rest
            turn = degrees * size * share
            turn = turn * min(1.0, LARGEST_TURN / max(float(turn.norm()), LARGEST_TURN))
            return self.linear(way * size * (1 - share), turn)

        return self._sized(both, error, points)

    def _sized(self, make: Callable[[float], Transform], error: float, points: torch.Tensor) -> Transform:
        """The motion whose true error is `error`: steps of proportion."""
        size = error
        for _ in range(SIZING_STEPS):
            found = mean_error(make(size), points)
            size *= min(max(error / max(found, 1e-6), 0.2), 5.0)
        return make(size)

    # --- probes -----------------------------------------------------------------------------------------------------

    def probe(
        self,
        group: str,
        kind: str,
        amount: float,
        motion: Transform,
        look: Look = AS_STORED,
        second: float = 0.0,
    ) -> Probe:
        """One probe at the tilt that most share; its true error is measured over the body."""
        return Probe(group, kind, amount, motion, self.tilt, mean_error(motion, self.canvas.body), second, look)

    def surface(self, group: str, reach: float, degrees: float, steps: int) -> Iterator[Probe]:
        """Shift along x times rotation (about z)."""
        turns, shifts = spread(degrees, steps), spread(reach, steps)
        for turn in turns:
            for shift in shifts:
                motion = self.axis_turn(2, turn, shift)
                yield self.probe(group, "shift x, rotation z", shift, motion, second=turn)

    def axes(self) -> Iterator[Probe]:
        """Every way to move, one at a time."""
        asked, ndim = self.settings, self.canvas.grid.ndim
        for axis in range(ndim):
            for amount in spread(asked.reach, asked.axis_steps):
                yield self.probe("axis", f"shift {'xyz'[axis]}", amount, self.axis_shift(axis, amount))
        for axis in range(3) if ndim == 3 else (2,):
            for amount in spread(asked.axis_degrees, asked.axis_steps):
                yield self.probe("axis", f"rotation {'xyz'[axis]}", amount, self.axis_turn(axis, amount))
        for amount in spread(asked.percent, asked.axis_steps // 2 | 1):
            yield self.probe("axis", "scale", amount, self.linear(scale=1 + amount / 100))
        bend = self.bend()
        for amount in torch.linspace(0, min(ELASTIC_LIMIT, asked.reach), asked.axis_steps // 2 + 1).tolist():
            yield self.probe("axis", "elastic", amount, DisplacementField(bend * amount, self.canvas.grid))

    def fine(self) -> Iterator[Probe]:
        """Short steps around the truth, for the optimum's place: as stored, noisy, and fixed with itself, noisy."""
        asked, ndim, sigma = self.settings, self.canvas.grid.ndim, self.settings.offset_noise
        looks = {
            "fine": Look(),
            "fine_noise": Look(noise_fixed=sigma, noise_moving=sigma),
            "fine_self": Look(noise_fixed=sigma, noise_moving=sigma, itself=True),
        }
        for group, look in looks.items():
            for amount in spread(asked.fine_reach, asked.fine_steps):
                for axis in range(ndim):
                    yield self.probe(group, f"shift {'xyz'[axis]}", amount, self.axis_shift(axis, amount), look)
                yield self.probe(group, "rotation z", amount, self.axis_turn(2, amount), look)

    def nuisances(self) -> Iterator[Probe]:
        """Aligned, but noisy, blurred, or of another contrast."""
        still = self.still()
        for sigma in (0.05, 0.1, 0.2):
            yield self.probe("nuisance", "noise", sigma, still, Look(noise_moving=sigma))
        for sigma in (0.5, 1.0, 2.0):
            yield self.probe("nuisance", "blur", sigma, still, Look(blur=sigma))
        for gamma in (0.5, 0.7, 1.4, 2.0):
            yield self.probe("nuisance", "gamma", gamma, still, Look(gamma=gamma))
        yield self.probe("nuisance", "inversion", 1.0, still, Look(inverted=True))

    def balance(self) -> Iterator[Probe]:
        """Rotations by 4 degrees, and shifts along every axis of equal true error."""
        degrees, ndim = self.settings.balance_degrees, self.canvas.grid.ndim
        yield self.probe("balance", "aligned", 0.0, self.still())
        for axis in range(3) if ndim == 3 else (2,):
            equal = mean_error(self.axis_turn(axis, degrees), self.canvas.body)
            for sign in (-1, 1):
                yield self.probe("balance", "rotation", sign * degrees, self.axis_turn(axis, sign * degrees))
                for along in range(ndim):
                    yield self.probe("balance", "shift", sign * equal, self.axis_shift(along, sign * equal))

    def ladder(self, group: str, errors: Sequence[float], discs: bool = False) -> Iterator[Probe]:
        """Random misalignments of given true errors, kinds in turn; each with its own tilt, and its own disc if asked."""
        kinds = KINDS_IN_DISC if discs else KINDS
        noise = self.settings.noise or (self.settings.identical_noise if self.canvas.identical else 0.0)
        look = Look(noise_fixed=noise, noise_moving=noise)
        for number, error in enumerate(errors):
            disc = self._disc() if discs else None
            points = self.canvas.body if disc is None else self._within(disc)
            kind = kinds[number % len(kinds)]
            motion = self.of_error(kind, error, points)
            tilt = self.canvas.tilt(self.generator)
            yield Probe(group, kind, error, motion, tilt, mean_error(motion, points), look=look, disc=disc)

    def errors(self, count: int) -> list[float]:
        """Uniform in 0 to the reach, one draw in each of `count` equal parts, shuffled."""
        parts = (torch.arange(count) + torch.rand(count, generator=self.generator)) / count * self.settings.reach
        return [float(parts[i]) for i in torch.randperm(count, generator=self.generator)]

    def _disc(self) -> Disc:
        """A random disc inside the body, so deep that the outline stays hidden as far as the body's size allows."""
        depth = self.canvas.depth
        deepest = float(depth.max())
        radius = min(max(deepest - self.settings.reach, 0.35 * deepest), 0.6 * deepest)
        needed = min(radius + self.settings.reach, 0.9 * deepest)
        places = (depth >= needed).nonzero()
        chosen = places[int(torch.randint(len(places), (), generator=self.generator))]
        return Disc(self.canvas.grid.index_to_physical(chosen.flip(0).double()), radius)

    def _within(self, disc: Disc) -> torch.Tensor:
        """The body's points that a disc shows: what is hidden has no error that a metric could see."""
        points = self.canvas.body
        away = torch.linalg.vector_norm(points - disc.centre.to(points), dim=-1)
        return points[away <= max(disc.radius, float(away.min()))]

    def near(self, with_surface: bool) -> list[Probe]:
        """All probes of a pair but those of the wide surface."""
        asked = self.settings
        found = [*self.axes(), *self.fine(), *self.nuisances(), *self.balance()]
        ladder = list(self.ladder("ladder", self.errors(asked.ladder)))
        found += ladder
        found += self.ladder("distance", [d for d in (0.0, *asked.distances) for _ in range(asked.repeats)])
        found += self.ladder("hidden", self.errors(asked.hidden), discs=True)
        hidden = [d for d in (0.0, asked.hidden_distance) for _ in range(asked.repeats)]
        found += self.ladder("hidden_distance", hidden, discs=True)
        found += [replace(p, group="swapped", look=replace(p.look, swapped=True)) for p in ladder[: asked.swapped]]
        if with_surface:
            found += self.surface("surface", asked.shift, asked.degrees, asked.steps)
        return found

    def wide(self, with_surface: bool) -> list[Probe]:
        """The wide surface."""
        asked = self.settings
        return (
            list(self.surface("wide", asked.wide_shift, asked.wide_degrees, asked.wide_steps)) if with_surface else []
        )


def mean_error(motion: Transform, points: torch.Tensor) -> float:
    """The true error of a misalignment: mean length of the displacement over some points."""
    with torch.no_grad():
        return float(torch.linalg.vector_norm(motion(points) - points, dim=-1).mean())


def spread(reach: float, steps: int) -> list[float]:
    """An odd number of equal steps from -reach to reach, through an exact 0.

    >>> spread(2.0, 5)
    [-2.0, -1.0, 0.0, 1.0, 2.0]
    """
    half = steps // 2
    return [reach * step / half for step in range(-half, half + 1)]
