"""What happens to an image on its way: noise, blur, uneven sensitivity, too few voxels, a part covered."""

from typing import Literal, final

import torch

from regsim.misalign.change import (
    Drawn,
    FactorRange,
    PositiveRange,
    Range,
    Share,
    SingleChange,
    UnitRange,
    happens,
    per_item,
    seeds,
    uniform,
    white_noise,
)
from regsim.misalign.smoothing import along_axes, blurred, coarse_matrices, smooth_field


@final
class Noise(SingleChange):
    """Independent noise in each voxel: Gaussian `x + s n`, or Rician `sqrt((x + s n)^2 + (s m)^2)`.

    n, m are standard normal; the result is clipped to [0, 1].

    Args:
        sigma: range of s, in units of the image's range.
        rician: probability that an image's noise is Rician (magnitude MR: dark regions are lifted).
    """

    kind: Literal["noise"] = "noise"
    sigma: Range = (0.0, 0.1)
    rician: Share = 0.0

    def _parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        count = len(images)
        return {
            "sigma": uniform(count, self.sigma, generator),
            "rician": happens(count, self.rician, generator),
            "seed": seeds(count, generator),
            "second_seed": seeds(count, generator),
        }

    def _changed(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        sigma = per_item(drawn["sigma"], images)
        noisy = white_noise(images, drawn["seed"]).mul_(sigma).add_(images)
        places = drawn["rician"].nonzero()[:, 0]
        if len(places) == 0:
            return noisy
        other = white_noise(images[places], drawn["second_seed"][places]) * sigma[places]
        return noisy.index_copy(0, places, torch.hypot(noisy[places], other))


@final
class Blur(SingleChange):
    """Gaussian blur. At the border the weights that fall outside are shared among the others.

    Args:
        sigma: range of the standard deviation, in voxels.
        per_axis: probability that each axis draws its own (thick slices, motion).
    """

    kind: Literal["blur"] = "blur"
    sigma: Range = (0.3, 1.5)
    per_axis: Share = 0.0

    def _parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        drawn = uniform((len(images), images.ndim - 2), self.sigma, generator)
        own = happens(len(images), self.per_axis, generator)
        return {"sigma": torch.where(own[:, None], drawn, drawn[:, :1])}

    def _changed(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        return blurred(images, drawn["sigma"])


@final
class BiasField(SingleChange):
    """A smooth sensitivity: `x exp(b)`, b a cubic spline over a coarse grid of normal values.

    b is scaled so that its largest absolute value is the drawn strength. An image that would exceed 1 is divided by its
    largest value instead of being clipped, so that nothing is lost.

    Args:
        strength: range of max |b|; 0.5 means factors between 0.61 and 1.65.
        knots: of the coarse grid along each axis, at least 4; more is less smooth.
    """

    kind: Literal["bias_field"] = "bias_field"
    strength: Range = (0.0, 0.5)
    knots: Literal[4, 5, 6, 7, 8] = 4

    def _parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        coarse = (len(images), 1, *[self.knots] * (images.ndim - 2))
        return {
            "strength": uniform(len(images), self.strength, generator),
            "coarse": torch.randn(coarse, generator=generator),
        }

    def _changed(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        field = smooth_field(drawn["coarse"], images.shape[2:])
        field = field - field.flatten(1).mean(dim=1).reshape(per_item(drawn["strength"], images).shape)
        largest = field.flatten(1).abs().amax(dim=1).clamp_min(1e-6)
        lit = images * torch.exp(field * per_item(drawn["strength"] / largest, images))
        return lit / per_item(lit.flatten(1).amax(dim=1).clamp_min(1), images)


@final
class Downsampled(SingleChange):
    """Resolution lost: sampled on a coarser grid and brought back by linear interpolation, at a random phase.

    Args:
        factor: range of the coarse spacing, in voxels (at least 1).
        per_axis: probability that only one axis, drawn, loses resolution (thick slices).
    """

    kind: Literal["downsampled"] = "downsampled"
    factor: FactorRange = (1.0, 3.0)
    per_axis: Share = 0.3

    def _parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        count, axes = len(images), images.ndim - 2
        factor = uniform((count, 1), self.factor, generator).expand(-1, axes)
        one = torch.nn.functional.one_hot(torch.randint(0, axes, (count,), generator=generator), axes) == 1
        spared = happens(count, self.per_axis, generator)[:, None] & ~one
        return {
            "factor": torch.where(spared, torch.ones_like(factor), factor),
            "phase": torch.rand((count, axes), generator=generator),
        }

    def _changed(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        factor, phase = drawn["factor"], drawn["phase"]
        phase = torch.where(factor == 1, torch.zeros_like(phase), phase)
        sizes = images.shape[2:]
        return along_axes(images, [coarse_matrices(factor[:, i], phase[:, i], n) for i, n in enumerate(sizes)])


@final
class Occlusion(SingleChange):
    """A smooth patch covered by one value: an implant, a tear, a lesion, what one contrast does not show.

    The patch is an ellipsoid with bumps; its edge is soft over about a tenth of its radius.

    Args:
        size: range of the half axes, as a share of each side.
        value: range of what covers the patch.
        bumps: largest departure from an ellipsoid, as a share of its radius.
    """

    kind: Literal["occlusion"] = "occlusion"
    size: PositiveRange = (0.05, 0.15)
    value: UnitRange = (0.0, 1.0)
    bumps: Share = 0.5

    def _parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        count, axes = len(images), images.ndim - 2
        return {
            "half": uniform((count, axes), self.size, generator),
            "centre": torch.rand((count, axes), generator=generator),
            "value": uniform(count, self.value, generator),
            "coarse": self.bumps * (2 * torch.rand((count, 1, *[14] * axes), generator=generator) - 1),
        }

    def _changed(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        square = smooth_field(drawn["coarse"], images.shape[2:])
        for axis, length in enumerate(images.shape[2:]):
            place = (torch.arange(length, dtype=images.dtype, device=images.device) + 0.5) / length
            away = (place - drawn["centre"][:, axis, None]) / drawn["half"][:, axis, None]
            square = square + away.square().reshape(
                -1, 1, *[length if i == axis else 1 for i in range(images.ndim - 2)]
            )
        cover = ((1 - square) * 5 + 0.5).clamp(0, 1)
        return torch.lerp(images, per_item(drawn["value"], images), cover)
