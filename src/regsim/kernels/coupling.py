"""One smooth displacement field from the costs of all cells: what neighbours agree on, where a cell alone would be unsure.

Mean displacements under the costs, averaged over neighbours by how sure they are, become what is expected of each cell in
the next round, more and more strictly: the coupled convex discretisation of dense displacement sampling, with soft minima
in place of hard ones, so that the field is finer than the search's steps.

References:
    Heinrich et al., Non-parametric discrete registration with convex optimisation, 2014, doi:10.1007/978-3-319-08554-8_6.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from regsim.kernels.choice import on_cpu
from regsim.kernels.matching import Search

SHARPNESS = 22.5
_SMALL = 1e-6


@dataclass(frozen=True)
class Round:
    """One round: how strictly cells keep to what is expected, `pull` in 1 / voxel^2; over how many cells the next is averaged."""

    pull: float
    radius: int


ROUNDS = (Round(0.0, 2), Round(0.03, 2), Round(0.12, 2), Round(0.5, 1), Round(1.0, 1))


@dataclass(frozen=True)
class Coupled:
    """After one round: `field` `(3, d, h, w)`, averaged; `own`, each cell's; `scatter` and `excess` `(d, h, w)`; in voxels."""

    field: torch.Tensor
    own: torch.Tensor
    scatter: torch.Tensor
    excess: torch.Tensor


def coupled(costs: torch.Tensor, search: Search) -> list[Coupled]:
    """The rounds, one after the other, from no expectation at all.

    Args:
        costs: `(d, h, w, n)`, from `kernels.matching.match`.
        search: its displacements.
    """
    field = costs.new_zeros((3, *costs.shape[:3]))
    confidence = (costs.mean(dim=-1) - costs.amin(dim=-1)).clamp_min(_SMALL)
    found = []
    for each in ROUNDS:
        result = _posterior(costs, field, search, each.pull)
        own, scatter, excess = result[:3], result[3], result[4]
        weight = confidence / (scatter + 0.5).square()
        field = _averaged(own, weight, each.radius, search)
        found.append(Coupled(field, own, scatter, excess))
    return found


def cell_means(values: torch.Tensor, radius: int, dims: int) -> torch.Tensor:
    """Means over `2 radius + 1` cells along each axis, what lies outside counted as zero: `(C, d, h, w)` in and out."""
    found = values[None]
    for axis in range(3 - dims, 3):
        window = [1, 1, 1]
        window[axis] = 2 * radius + 1
        margin = [0] * 6
        margin[2 * (2 - axis)] = margin[2 * (2 - axis) + 1] = radius
        found = F.avg_pool3d(F.pad(found, margin), tuple(window), 1)
    return found[0]


def _averaged(own: torch.Tensor, weight: torch.Tensor, radius: int, search: Search) -> torch.Tensor:
    mean = cell_means(torch.cat([own * weight, weight[None]]), radius, search.dims)
    return mean[:3] / mean[3:].clamp_min(_SMALL**2)


def _posterior(costs: torch.Tensor, prior: torch.Tensor, search: Search, pull: float) -> torch.Tensor:
    """`(5, d, h, w)`: see `kernels.cpu.coupling.posterior_means`."""
    if on_cpu(costs):
        from regsim.kernels.cpu.compiled import in_slabs
        from regsim.kernels.cpu.coupling import posterior_means

        steps = np.ascontiguousarray(search.offsets.T.astype(np.float32))
        result = np.empty((5, *costs.shape[:3]), np.float32)
        expected = prior.contiguous().numpy()
        in_slabs(posterior_means, costs.shape[0], costs.numpy(), steps, expected, SHARPNESS, pull, result)
        return torch.from_numpy(result)
    places = torch.as_tensor(search.offsets, dtype=costs.dtype, device=costs.device)
    best = costs.amin(dim=-1, keepdim=True)
    spread = (costs.mean(dim=-1, keepdim=True) - best).clamp_min(_SMALL)
    excess = (costs - best) / spread
    away = (places - prior.movedim(0, -1)[..., None, :]).square().sum(dim=-1)
    weights = torch.softmax(-SHARPNESS * excess - pull * away, dim=-1)
    mean = weights @ places
    square = weights @ places.square().sum(dim=-1)
    scatter = (square - mean.square().sum(dim=-1)).clamp_min(0).sqrt()
    return torch.cat([mean.movedim(-1, 0), scatter[None], (weights * excess).sum(dim=-1)[None]])
