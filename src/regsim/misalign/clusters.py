"""Intensity clusters painted anew: the change of contrast that served best in quick trials."""

from typing import Literal, final

import torch

from regsim.misalign.change import (
    CountRange,
    Drawn,
    PositiveRange,
    Range,
    UnitRange,
    seeds,
    uniform,
    white_noise,
    whole,
)
from regsim.misalign.curves import BINS, IntensityMap, looked_up
from regsim.misalign.smoothing import FARTHEST, blurred

SAMPLES = 512


@final
class ClusterMixture(IntensityMap):
    """K intensity clusters, each painted with a new mean, slope and texture, then blurred a little.

    The centres c_k are values of the image itself, at random ranks. A voxel belongs to cluster k with the share
    `w_k(x) = softmax(-(x - c_k)^2 / 2 s^2)` and becomes `sum_k w_k(x) (m_k + a_k (x - c_k) + d_k n)`, n standard normal
    noise; m, a, d are drawn for each cluster. Where tissues differ in intensity this looks like another contrast of
    the same anatomy.

    Args:
        clusters: range of K.
        softness: range of s.
        mean: range of m.
        slope: largest |a|.
        texture: range of d.
        blur: range of the final blur's sigma, in voxels.
    """

    kind: Literal["cluster_mixture"] = "cluster_mixture"
    clusters: CountRange = (3, 8)
    softness: PositiveRange = (0.05, 0.12)
    mean: UnitRange = (0.0, 1.0)
    slope: PositiveRange = (0.01, 1.0)
    texture: Range = (0.0, 0.06)
    blur: Range = (0.4, 1.0)

    def _map_parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        count, most = len(images), self.clusters[1]
        shape = (count, most)
        ranks = torch.rand(shape, generator=generator).to(images.device)
        sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
        return {
            "clusters": whole(count, self.clusters, generator),
            "centres": _quantiles(images, ranks, self.background_level),
            "means": uniform(shape, self.mean, generator),
            "slopes": uniform(shape, self.slope, generator) * sign,
            "textures": uniform(shape, self.texture, generator),
            "softness": uniform(count, self.softness, generator),
            "blur": uniform(count, self.blur, generator),
            "seed": seeds(count, generator),
        }

    def _mapped(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        means, spreads = _tables(drawn)
        spread = spreads.gather(1, (images.flatten(1) * BINS).long()).reshape(images.shape)
        painted = looked_up(images, means).addcmul_(spread, white_noise(images, drawn["seed"]))
        return blurred(painted, drawn["blur"])


def _quantiles(images: torch.Tensor, ranks: torch.Tensor, level: float) -> torch.Tensor:
    """Values of each image at `ranks` `(N, K)` in [0, 1] of its voxels above `level` (of all, if none is)."""
    flat = images.flatten(1)
    flat = flat[:, :: max(1, flat.shape[1] // SAMPLES) | 1].sort(dim=1).values
    below = (flat <= level).sum(dim=1, keepdim=True)
    below = torch.where(below == flat.shape[1], 0, below)
    place = below + ranks * (flat.shape[1] - 1 - below)
    return flat.gather(1, place.round().long())


def _tables(drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread `(N, 257)` of what an intensity is painted with."""
    centres = drawn["centres"]
    unit = torch.linspace(0, 1, BINS + 1, dtype=centres.dtype, device=centres.device)
    away = unit - centres[..., None]
    unused = torch.arange(centres.shape[1], device=centres.device) >= drawn["clusters"][:, None]
    distance = 0.5 * (away / drawn["softness"][:, None, None]).square()
    distance = distance.masked_fill(unused[..., None], torch.inf)
    share = torch.exp(-(distance - distance.amin(dim=1, keepdim=True)).clamp_max(FARTHEST))
    share = share / share.sum(dim=1, keepdim=True)
    means = (share * (drawn["means"][..., None] + drawn["slopes"][..., None] * away)).sum(dim=1)
    return means.clamp(0, 1), (share * drawn["textures"][..., None]).sum(dim=1)
