"""Distances between neighbours as descriptors, and two descriptors compared: the loop under MIND.

`descriptor = exp(-(D - min D) / v)`, with the minimum and v, the mean of `D - min D`, over the channels. Autograd would
keep a dozen volumes of all channels; these loops keep one and go channel by channel, so that what they touch stays in
the cache. In float32 on the CPU `BoundDescriptors` goes further: from the moving image to the mean distance in compiled
loops, its gradient with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from regsim.kernels.cpu.self_similarity import Descriptors

_CLAMP = 1e-3
"""v is held between this part of its mean over the image and the inverse multiple of the mean."""
_TINY = 1e-30
"""Keeps a constant image's 0 / 0 at 0."""


@dataclass(frozen=True)
class Channels:
    """What is known before any intensity. All broadcast against distances `(M, K, *spatial)`.

    `share` turns a sum of distances into a mean; `valid` (bool) says which channels exist at a voxel, `counts` how many
    (at least 1); `importance` (adding up to 1 over the voxels) weighs the mean of v over the image.
    """

    share: torch.Tensor
    valid: torch.Tensor
    counts: torch.Tensor
    importance: torch.Tensor


def describe(sums: torch.Tensor, channels: Channels) -> torch.Tensor:
    """Descriptors of sums of distances, `(M, K, *spatial)` in (0, 1]; 1 at invalid channels."""
    described: torch.Tensor = _Describe.apply(sums, channels)  # type: ignore[no-untyped-call]
    return described


def square_distance(sums: torch.Tensor, other: torch.Tensor, channels: Channels) -> torch.Tensor:
    """Mean over the valid channels of `(describe(sums) - other)^2`, `(M, 1, *spatial)`."""
    distance: torch.Tensor = _SquareDistance.apply(sums, other, channels)  # type: ignore[no-untyped-call]
    return distance


class BoundDescriptors:
    """A fixed image's descriptors, compared with moving images in compiled loops; float32 on the CPU.

    `fixed`: `(M, 1, *spatial)`, at least two axes longer than `dilation`; `weights` alike, in [0, 1], or None. No
    gradient flows to either.
    """

    def __init__(self, fixed: torch.Tensor, weights: torch.Tensor | None, radius: int, dilation: int):
        from regsim.kernels.cpu.self_similarity import Descriptors

        self._items = [
            Descriptors(image[0], None if weights is None else weights[item, 0], radius, dilation)
            for item, image in enumerate(fixed)
        ]

    def distance(self, moving: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Mean squared difference of the descriptors, `(M,)`, weighted (1 everywhere if None), 0 without any weight."""
        wanted = torch.is_grad_enabled() and moving.requires_grad
        values: torch.Tensor = _BoundDistance.apply(moving, weights, self._items, wanted)  # type: ignore[no-untyped-call]
        return values


class _BoundDistance(Function):
    @staticmethod
    def forward(
        ctx: Any, moving: torch.Tensor, weights: torch.Tensor | None, items: list["Descriptors"], wanted: bool
    ) -> torch.Tensor:
        """The gradient is made at once: the loops that give the value have all that it needs."""
        compared = [
            bound.compare(image[0], None if weights is None else weights[item, 0], wanted)
            for item, (bound, image) in enumerate(zip(items, moving, strict=True))
        ]
        if wanted:
            ctx.save_for_backward(*(gradient for _, gradient in compared))
        return moving.new_tensor([value for value, _ in compared])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        parts = [unit * factor for unit, factor in zip(ctx.saved_tensors, gradient, strict=True)]
        return torch.stack(parts).unsqueeze(1), None, None, None


class _Describe(Function):
    @staticmethod
    def forward(ctx: Any, sums: torch.Tensor, channels: Channels) -> torch.Tensor:
        excess, noise, typical = _excess(sums, channels)
        ctx.save_for_backward(excess, noise, typical)
        ctx.channels = channels
        return torch.exp(excess / -_held(noise, typical))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        excess, noise, typical = ctx.saved_tensors
        return _pull(excess, noise, typical, ctx.channels, lambda k, _: gradient[:, k : k + 1]), None


class _SquareDistance(Function):
    @staticmethod
    def forward(ctx: Any, sums: torch.Tensor, other: torch.Tensor, channels: Channels) -> torch.Tensor:
        excess, noise, typical = _excess(sums, channels)
        ctx.save_for_backward(excess, noise, typical, other)
        ctx.channels = channels
        rate = -_held(noise, typical).reciprocal()
        total = torch.zeros_like(noise)
        for k in range(excess.shape[1]):
            apart = torch.exp(excess[:, k : k + 1] * rate) - other[:, k : k + 1]
            total.addcmul_(apart, apart)
        return total / channels.counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        excess, noise, typical, other = ctx.saved_tensors
        twice = 2 * gradient / ctx.channels.counts
        to_other = None
        if ctx.needs_input_grad[1]:
            to_other = twice * (other - torch.exp(excess / -_held(noise, typical)))
        to_sums = _pull(excess, noise, typical, ctx.channels, lambda k, own: twice * (own - other[:, k : k + 1]))
        return to_sums, to_other, None


def _excess(sums: torch.Tensor, channels: Channels) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`D - min D` (0 where invalid), its mean v over the channels, and the mean of v over the image."""
    missing = ~channels.valid
    excess = (sums * channels.share).masked_fill_(missing, torch.inf)
    lowest = excess[:, :1].clone()
    for k in range(1, excess.shape[1]):
        torch.minimum(lowest, excess[:, k : k + 1], out=lowest)
    noise = torch.zeros_like(lowest)
    for k in range(excess.shape[1]):
        noise += excess[:, k : k + 1].sub_(lowest).masked_fill_(missing[:, k : k + 1], 0)
    noise /= channels.counts
    spatial = tuple(range(1, noise.ndim))
    return excess, noise, (noise * channels.importance).sum(dim=spatial, keepdim=True)


def _held(noise: torch.Tensor, typical: torch.Tensor) -> torch.Tensor:
    """v within its limits."""
    return torch.minimum(torch.maximum(noise, _CLAMP * typical), typical / _CLAMP).clamp_min_(_TINY)


def _pull(
    excess: torch.Tensor,
    noise: torch.Tensor,
    typical: torch.Tensor,
    channels: Channels,
    slope: Callable[[int, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Gradient with respect to the sums; `slope(k, descriptor_k)` is the gradient that comes into channel k."""
    rate = _held(noise, typical).reciprocal()
    gradient = torch.empty_like(excess)
    to_held = torch.zeros_like(noise)
    for k in range(excess.shape[1]):
        own = torch.exp(excess[:, k : k + 1] * -rate)
        own *= slope(k, own)
        to_held.addcmul_(own, excess[:, k : k + 1])
        torch.mul(own, -rate, out=gradient[:, k : k + 1])
    to_noise = _through_limits(to_held.mul_(rate).mul_(rate), noise, typical, channels.importance) / channels.counts
    valid = channels.valid.to(excess.dtype)
    total, ties = torch.zeros_like(noise), torch.zeros_like(noise)
    for k in range(excess.shape[1]):
        total += gradient[:, k : k + 1].add_(to_noise).mul_(valid[:, k : k + 1])
        ties += (excess[:, k : k + 1] == 0) * valid[:, k : k + 1]
    total /= ties.clamp_min_(1)
    for k in range(excess.shape[1]):
        lowest = (excess[:, k : k + 1] == 0) * valid[:, k : k + 1]
        gradient[:, k : k + 1].addcmul_(total, lowest, value=-1)
    return gradient.mul_(channels.share)


def _through_limits(
    gradient: torch.Tensor, noise: torch.Tensor, typical: torch.Tensor, importance: torch.Tensor
) -> torch.Tensor:
    """Gradient with respect to v before it was held: the limits pass it on to the mean of v over the image."""
    low, high = _CLAMP * typical, typical / _CLAMP
    inside = (noise >= low) & (noise <= high) & (noise >= _TINY)
    below, above = (noise < low) & (low >= _TINY), noise > high
    to_typical = gradient * (below * _CLAMP + above / _CLAMP)
    spatial = tuple(range(1, noise.ndim))
    return gradient * inside + to_typical.sum(dim=spatial, keepdim=True) * importance
