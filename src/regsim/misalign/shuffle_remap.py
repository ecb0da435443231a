"""Shuffle Remap: the intensity range cut into pieces that change places."""

from typing import Literal, final

import torch

from regsim.misalign.change import CountRange, Drawn, Share, happens, whole
from regsim.misalign.curves import IntensityMap

BINS = 2048


@final
class ShuffleRemap(IntensityMap):
    """Random control points cut [0, 1] into N segments; each segment is mapped onto a segment of a permutation.

    A value x of segment i, between p_i and p_(i+1), becomes `p_j + (x - p_i) / (p_(i+1) - p_i) * (p_(j+1) - p_j)`,
    where j = permutation(i) (Eq. 8 of the paper). Every segment is filled once, so the map is a bijection of [0, 1] but
    for the control points; widths change, so it does not keep the histogram.

    Convention:
        The paper works on [-1, 1]; this works on [0, 1]. Mended: its pseudocode takes half-open segments only, and the
        value 1 becomes 0 (mid-grey there): here the last segment is closed. It draws N control points, which are N + 1
        segments: here N is the number of segments, as the paper's text has it. A segment without width is guarded (no
        0 / 0). With N = 2 half of the draws are the identity, as published.
        Not in the paper: `reversal`, and that the background may stay dark (`background_probability`; 0 as published).

    Args:
        segments: range of N, both ends among them.
        reversal: probability that a segment is mapped back to front.

    References:
        Kong et al., Indescribable Multi-modal Spatial Evaluator, 2023, doi:10.1109/CVPR52729.2023.00949.
    """

    kind: Literal["shuffle_remap"] = "shuffle_remap"
    segments: CountRange = (2, 50)
    reversal: Share = 0.0

    def _map_parameters(self, images: torch.Tensor, generator: torch.Generator) -> Drawn:
        count, most = len(images), self.segments[1]
        segments = whole(count, self.segments, generator)
        return {
            "segments": segments,
            "edges": _edges(torch.rand((count, most - 1), generator=generator), segments),
            "permutation": _permutation(torch.rand((count, most), generator=generator), segments),
            "reversed": happens(count * most, self.reversal, generator).reshape(count, most),
        }

    def _mapped(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        values, edges = images.flatten(1), drawn["edges"]
        segment = segment_of(values, edges)
        width, target = edges.diff(dim=1), drawn["permutation"]
        backward = drawn["reversed"]
        begin = edges.gather(1, target + backward.long())
        slope = width.gather(1, target) / width.clamp_min(torch.finfo(width.dtype).tiny)
        slope = slope.clamp_max(1e12) * (1 - 2 * backward.to(width.dtype))
        inside = values - edges.gather(1, segment)
        return torch.addcmul(begin.gather(1, segment), inside, slope.gather(1, segment)).reshape(images.shape)


def segment_of(values: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Which segment holds each value: the number of inner edges below 1 that are not above it.

    `values` `(N, P)` in [0, 1], `edges` `(N, K + 1)` rising, from 0 to 1. Exact, and several times faster than a binary
    search: a fine grid of bins says how many edges lie in the bins below; the few in a value's own bin are compared.
    """
    upper = edges[:, 1:].masked_fill(edges[:, 1:] >= 1, torch.inf)
    inner = (edges[:, 1:] * BINS).long()
    held = torch.zeros((len(edges), BINS + 1), dtype=torch.long, device=edges.device)
    held.scatter_add_(1, inner, torch.ones_like(inner) * (inner < BINS))
    segment = (held.cumsum(dim=1) - held).gather(1, (values * BINS).long())
    for _ in range(int(held.max())):
        segment += values >= upper.gather(1, segment)
    return segment


def _edges(points: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """`(N, most + 1)`: 0, the sorted first `segments - 1` points, then ones."""
    used = torch.arange(points.shape[1]) < (segments - 1)[:, None]
    inner = torch.where(used, points, torch.ones_like(points)).sort(dim=1).values
    ends = torch.ones((len(points), 1))
    return torch.cat((0 * ends, inner, ends), dim=1)


def _permutation(keys: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
    """`(N, most)`: a uniform permutation of the first `segments`, the others stay."""
    place = torch.arange(keys.shape[1])
    return torch.where(place < segments[:, None], keys, 2.0 + place).argsort(dim=1)
