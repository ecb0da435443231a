"""Maps of intensity: gamma, inversion, Bezier curves and smooth random curves."""

from abc import abstractmethod
from typing import Literal, final

import torch

from regsim.misalign.change import (
    CountRange,
    Drawn,
    PositiveRange,
    Share,
    SingleChange,
    UnitRange,
    happens,
    per_item,
    uniform,
    whole,
)

BINS = 256
STEPS = 512


class IntensityMap(SingleChange):
    """A new intensity for each old one, the same at every place of an image.

    Convention:
        Air is dark in every kind of scan, but not in every kind of picture. An image keeps its dark background with
        `background_probability`: values up to `background_level` stay as they are, and the map comes in linearly
        up to twice that level, so that an edge does not get a rim. `drawn["dark"]` records which images did.

    Args:
        probability: that an image is changed.
        background_probability: that a changed image keeps its dark background.
        background_level: up to where values are background.
    """

    background_probability: Share = 0.7
    background_level: Share = 0.03

    @abstractmethod
    def _map_parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        """Parameters of the map."""

    @abstractmethod
    def _mapped(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        """The map applied everywhere."""

    def _parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        drawn = {"dark": happens(len(images), self.background_probability, generator)}
        drawn.update(self._map_parameters(images, generator))
        return drawn

    def _changed(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        images = images.clamp(0, 1)
        mapped = self._mapped(images, drawn)
        if not bool(drawn["dark"].any()):
            return mapped
        bright = 1 - per_item(drawn["dark"], images)
        weight = images.div(max(self.background_level, 1e-6)).sub_(1).clamp_(0, 1).maximum(bright)
        return torch.lerp(images, mapped, weight)


@final
class Gamma(IntensityMap):
    """`x^g`; g is drawn uniformly in its logarithm.

    Args:
        gamma: range of g.
    """

    kind: Literal["gamma"] = "gamma"
    gamma: PositiveRange = (0.5, 2.0)

    def _map_parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        low, high = torch.tensor(self.gamma).log().tolist()
        return {"gamma": uniform(len(images), (low, high), generator).exp()}

    def _mapped(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        return images.pow(per_item(drawn["gamma"], images))


@final
class Inversion(IntensityMap):
    """`low + high - x`: dark and bright change places within the image's own range.

    low, high are the smallest and largest value of the image; of its foreground (values above `background_level`)
    where the background stays dark.
    """

    kind: Literal["inversion"] = "inversion"

    def _map_parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        return {}

    def _mapped(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        flat = images.flatten(1)
        high = flat.amax(dim=1)
        inner = (flat + (flat <= self.background_level)).amin(dim=1)
        low = torch.where(drawn["dark"], torch.minimum(inner, high), flat.amin(dim=1))
        return per_item(low + high, images) - images


@final
class BezierCurve(IntensityMap):
    """A rising or falling cubic Bezier curve from (0, 0) to (1, 1), or from (0, 1) to (1, 0).

    `(x, y)(t) = 3 (1 - t)^2 t P1 + 3 (1 - t) t^2 P2 + t^3 (1, 1)`; both coordinates of P1 and P2 are drawn in [0, 1],
    which makes both coordinates monotone in t, and so the map. Evaluated on 257 intensities, linear between them.

    Args:
        falling: probability that the map falls.

    References:
        Zhou et al., Models Genesis, 2021, doi:10.1016/j.media.2020.101840.
    """

    kind: Literal["bezier_curve"] = "bezier_curve"
    falling: Share = 0.5

    def _map_parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        return {
            "points": torch.rand((len(images), 2, 2), generator=generator),
            "falling": happens(len(images), self.falling, generator),
        }

    def _mapped(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        curve = bezier_table(drawn["points"])
        return looked_up(images, torch.where(drawn["falling"][:, None], 1 - curve, curve))


@final
class SmoothCurve(IntensityMap):
    """A smooth random curve, rising and falling as it likes: values drawn at K knots, Catmull-Rom between them.

    The curve is then stretched so that over [0, 1] it runs between a drawn lowest and highest value.

    Args:
        knots: range of K; more knots, more turns.
        low, high: ranges of the lowest and highest value.
    """

    kind: Literal["smooth_curve"] = "smooth_curve"
    knots: CountRange = (3, 8)
    low: UnitRange = (0.0, 0.3)
    high: UnitRange = (0.7, 1.0)

    def _map_parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        count = len(images)
        return {
            "knots": whole(count, self.knots, generator),
            "values": torch.rand((count, self.knots[1]), generator=generator),
            "low": uniform(count, self.low, generator),
            "high": uniform(count, self.high, generator),
        }

    def _mapped(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        curve = catmull_rom_table(drawn["values"], drawn["knots"])
        bottom, top = curve.amin(dim=1, keepdim=True), curve.amax(dim=1, keepdim=True)
        unit = (curve - bottom) / (top - bottom).clamp_min(1e-6)
        return looked_up(images, torch.lerp(drawn["low"][:, None], drawn["high"][:, None], unit))


def looked_up(images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Each image in [0, 1] through its own table `(N, bins + 1)` of values at 0, 1/bins, ... 1; linear between."""
    bins = tables.shape[1] - 1
    place = images.flatten(1) * bins
    lower = place.long().clamp_(max=bins - 1)
    left = tables.gather(1, lower)
    return left.addcmul_(tables.diff(dim=1).gather(1, lower), place.sub_(lower)).reshape(images.shape)


def bezier_table(points: torch.Tensor) -> torch.Tensor:
    """Curves through inner points `(N, 2, 2)` (point, then x and y) as `(N, 257)` values at equal steps of x."""
    t = torch.linspace(0, 1, STEPS + 1, dtype=points.dtype, device=points.device)
    basis = torch.stack((3 * (1 - t).square() * t, 3 * (1 - t) * t.square()))
    x, y = (torch.einsum("np,pt->nt", points[:, :, axis], basis) + t.pow(3) for axis in (0, 1))
    x, y = x.cummax(dim=1).values, y.cummax(dim=1).values
    wanted = torch.linspace(0, 1, BINS + 1, dtype=points.dtype, device=points.device).expand(len(points), -1)
    right = torch.searchsorted(x.contiguous(), wanted.contiguous()).clamp(1, STEPS)
    x0, x1, y0, y1 = x.gather(1, right - 1), x.gather(1, right), y.gather(1, right - 1), y.gather(1, right)
    share = ((wanted - x0) / (x1 - x0).clamp_min(1e-9)).clamp(0, 1)
    curve = torch.lerp(y0, y1, share).clamp(0, 1)
    curve[:, -1] = 1  # where the curve ends upright, rounding would stop below its end
    return curve


def catmull_rom_table(values: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """Curves through the first `knots` `(N,)` of `values` `(N, most)` as `(N, 257)`; may overshoot [0, 1]."""
    unit = torch.linspace(0, 1, BINS + 1, dtype=values.dtype, device=values.device)
    last = (knots - 1)[:, None]
    place = unit * last
    lower = torch.minimum(place.long(), last - 1)
    t = place - lower
    a, b, c, d = (values.gather(1, torch.minimum((lower + step).clamp_min(0), last)) for step in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
