"""Two convolutions that torch computes slowly on the CPU, several times faster.

One small volume, as a batch of two slabs: for a batch of one and at most 20480 numbers (batch x channels x first two axes),
torch leaves its fast library for a plain loop. Measured on one thread, forward and backward: 8 to 8 channels on 32^3 voxels
42 ms there, 4 ms as two slabs.

The gradient to an image of one channel that was convolved with steps of 2: torch takes six times as long for it as it need (256
patches of 17^3, 16 channels, kernels of 5^3: 83 ms in place of 13).
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from regsim.kernels.choice import on_cpu

LEAST_NUMBERS = 20480
SHORTEST = 4
STEP = 2


class SlabConv3d(nn.Conv3d):
    """`nn.Conv3d` with zero padding, groups 1 and dilation 1, quicker for one small volume."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As `nn.Conv3d`."""
        if not _is_slow(input):
            return super().forward(input)
        parts, shared = _slabs(input, self.kernel_size[0], self.stride[0], int(self.padding[0]))
        padding = (0, int(self.padding[1]), int(self.padding[2]))
        return _joined(F.conv3d(parts, self.weight, self.bias, self.stride, padding), shared)


def _is_slow(image: torch.Tensor) -> bool:
    """Whether torch would take its plain loop."""
    few = image.shape[0] == 1 and image.shape[:4].numel() <= LEAST_NUMBERS
    return few and image.shape[2] >= SHORTEST and on_cpu(image)


def _slabs(image: torch.Tensor, kernel: int, stride: int, padding: int) -> tuple[torch.Tensor, int]:
    """Two halves along the first axis with what each needs of the other, as a batch; how many outputs both give."""
    padded = F.pad(image, [0, 0] * (image.ndim - 3) + [padding, padding])
    outputs = (padded.shape[2] - kernel) // stride + 1
    half = -(-outputs // 2)
    length = (half - 1) * stride + kernel
    starts = (0, (outputs - half) * stride)
    return torch.cat([padded.narrow(2, start, length) for start in starts]), 2 * half - outputs


def _joined(both: torch.Tensor, shared: int) -> torch.Tensor:
    return torch.cat([both[:1], both[1:, :, shared:]], dim=2)


def halving_convolution(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.conv2d` or `F.conv3d` with steps of 2 and without padding; with a quick gradient to the image where only that is wanted.

    Args:
        image: `(N, C, *spatial)`.
        weight: `(K, C, *kernel)`, all sides alike.
        bias: `(K,)`.
    """
    if on_cpu(image) and image.requires_grad and not weight.requires_grad:
        found: torch.Tensor = _Halving.apply(image, weight, bias)  # type: ignore[no-untyped-call]
        return found
    plain: torch.Tensor = _convolution(weight)(image, weight, bias, stride=STEP)
    return plain


class _Halving(Function):
    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.spatial = image.shape[2:]
        found: torch.Tensor = _convolution(weight)(image, weight, bias, stride=STEP)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Voxels of one parity a side receive from taps of that parity alone: one convolution gives all parities, as channels."""
        [weight] = ctx.saved_tensors
        dims, channels, half = weight.ndim - 2, weight.shape[1], (weight.shape[2] + 1) // 2
        parts = _convolution(weight)(gradient, _by_parity(weight, half), padding=half - 1)
        counts = parts.shape[2:]
        split = parts.reshape(len(parts), channels, *[STEP] * dims, *counts)
        order = [
            place for axis in range(dims) for place in (2 + dims + axis, 2 + axis)
        ]  # m, parity of each axis in turn
        whole = split.permute(0, 1, *order).reshape(len(parts), channels, *(STEP * n for n in counts))
        missing = [
            n - found for n, found in zip(ctx.spatial, whole.shape[2:], strict=True)
        ]  # below 0: beyond the image
        return F.pad(whole, [part for gap in reversed(missing) for part in (0, gap)]), None, None


def _by_parity(weight: torch.Tensor, half: int) -> torch.Tensor:
    """`(C * 2^dims, K, *half)`: for each channel and parity its taps, mirrored, as a convolution without steps wants them."""
    dims = weight.ndim - 2
    even = F.pad(weight, [part for n in reversed(weight.shape[2:]) for part in (0, STEP * half - n)])
    kernels = []
    for parity in itertools.product(range(STEP), repeat=dims):
        taps = even[(slice(None), slice(None), *[slice(first, None, STEP) for first in parity])]
        kernels.append(taps.flip(tuple(range(2, 2 + dims))).transpose(0, 1))
    return torch.stack(kernels, dim=1).flatten(0, 1)


def _convolution(weight: torch.Tensor) -> Any:
    return F.conv2d if weight.ndim == 4 else F.conv3d
