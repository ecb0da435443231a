"""Local correlation and structural similarity of whole images with their gradient, for float32 on the CPU.

Tensors in and out; `windows` has the loops and the formulas.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from regsim.kernels.cpu import windows as loops
from regsim.kernels.cpu.compiled import in_slabs

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Windows:
    """Where windows lie and what part of each lies inside.

    `1 / (sum of weights in the window)`, which turns a sum into a mean, is `share * across[z] * down[y]`: one row `share`
    without a mask, as a window without one is separable, too; else a stack of planes. 0 where a window holds nothing.
    """

    depth: int
    taps: Floats
    weights: Floats
    share: Floats
    across: Floats
    down: Floats


@dataclass(frozen=True)
class Statistics:
    """Of each item, over all voxels: sum of weights, mean, variance, smallest and largest value (0 without voxels)."""

    total: Doubles
    mean: Doubles
    variance: Doubles
    low: Doubles
    high: Doubles


def planes(tensor: torch.Tensor) -> Floats:
    """`(M, 1, *spatial)` as a stack of planes `(M * depth, height, width)`; shares memory where it can."""
    height = tensor.shape[3] if tensor.ndim == 5 else 1
    stack: Floats = tensor.detach().reshape(-1, height, tensor.shape[-1]).contiguous().numpy()
    return stack


def windows(spatial: torch.Size, half: tuple[float, ...], weights: torch.Tensor | None) -> Windows:
    """Windows with weight `half[k]` at distance k on images of size `spatial`, with a mask `(M, 1, *spatial)` or none."""
    taps = np.array(half, dtype=np.float32)
    depth, height, width = spatial[0], spatial[1] if len(spatial) == 3 else 1, spatial[-1]
    if weights is None:
        across, down, along = (_inverse(_held(length, taps)) for length in (depth, height, width))
        return Windows(depth, taps, np.ones((1, 1, width), np.float32), along[None, None], across, down)
    row, stack, items = np.ones((1, 1, width), np.float32), planes(weights), len(weights)
    plain = Windows(depth, taps, row, row, np.ones(depth, np.float32), np.ones(height, np.float32))
    _, held, _ = moments(stack, plain, np.zeros(items), np.ones(items))  # with a share of 1, a mean is a sum
    return replace(plain, weights=stack, share=_inverse(held))


def statistics(stack: Floats, weights: Floats, depth: int) -> Statistics:
    """Of a stack of planes of items of `depth` planes."""
    rows = np.empty((len(stack), 5))
    in_slabs(loops.statistics, len(stack), stack, weights, rows)
    table = rows.reshape(-1, depth, 5)
    total, moment, square = table[..., :3].sum(axis=1).T
    held = np.where(total > 0, total, 1.0)
    mean = moment / held
    low, high = table[..., 3].min(axis=1), table[..., 4].max(axis=1)
    low, high = np.where(total > 0, low, 0.0), np.where(total > 0, high, 0.0)
    return Statistics(total, mean, np.maximum(square / held - mean**2, 0.0), low, high)


def moments(stack: Floats, windows: Windows, shift: Doubles, scale: Doubles) -> tuple[Floats, Floats, Floats]:
    """The image as `(x - shift) * scale` (one each an item), and its mean and variance in each window."""
    standard, mean, variance = np.empty_like(stack), np.empty_like(stack), np.empty_like(stack)
    given = (windows.weights, windows.depth, windows.taps, _single(shift), _single(scale))
    share = (windows.share, windows.across, windows.down)
    in_slabs(loops.moments, len(stack), stack, *given, *share, standard, mean, variance)
    return standard, mean, variance


def _held(length: int, taps: Floats) -> Doubles:
    """What of the window along an axis lies inside, at each place."""
    window = np.concatenate([taps[:0:-1], taps]).astype(np.float64)
    radius = len(taps) - 1
    return np.convolve(np.ones(length), window)[radius : radius + length]


def _single(numbers: Doubles) -> Floats:
    return numbers.astype(np.float32)


def _inverse(held: Floats | Doubles) -> Floats:
    """`1 / held`, 0 where nothing is held."""
    inverse: Floats = (1.0 / np.where(held > 0, held, np.inf)).astype(np.float32, copy=False)
    return inverse


@dataclass(frozen=True)
class Standard:
    """How images become s, one number each an item: `s = (m - shift) * scale`.

    `total`: the sum of weights behind them.
    """

    shift: Doubles
    scale: Doubles
    total: Doubles


@dataclass(frozen=True)
class FixedHalf:
    """All that is known of the fixed image: itself (shifted and scaled), its mean and variance in each window.

    `settings` `(M, 3)`: floor of the correlation; or c1, c2 and centre of the structure. `standard`: how moving images are
    shifted and scaled; None: by their own mean and deviation.
    """

    form: int
    windows: Windows
    image: Floats
    mean: Floats
    variance: Floats
    settings: Floats
    standard: Standard | None


def bind_correlation(
    fixed: torch.Tensor, weights: torch.Tensor | None, half: tuple[float, ...], floor: float
) -> FixedHalf:
    """Both images have mean 0 and variance 1 over the mask; `floor` is the smallest variance of a window."""
    stack, own = planes(fixed), windows(fixed.shape[2:], half, weights)
    standard = _standard(statistics(stack, own.weights, own.depth))
    image, mean, variance = moments(stack, own, standard.shift, standard.scale)
    settings = np.full((len(standard.shift), 3), floor, np.float32)
    return FixedHalf(loops.CORRELATION, own, image, mean, variance, settings, None)


def bind_structure(
    fixed: torch.Tensor,
    weights: torch.Tensor | None,
    half: tuple[float, ...],
    k1: float,
    k2: float,
    data_range: float | None,
) -> FixedHalf:
    """Both images are shifted by the fixed one's mean, and divided by the data range (default: the fixed image's)."""
    stack, own = planes(fixed), windows(fixed.shape[2:], half, weights)
    known = statistics(stack, own.weights, own.depth)
    span = known.high - known.low if data_range is None else np.full_like(known.low, data_range)
    standard = Standard(known.mean, 1 / np.where(span > 0, span, 1.0), known.total)
    image, mean, variance = moments(stack, own, standard.shift, standard.scale)
    centre = standard.shift * standard.scale
    settings = np.stack([np.full_like(centre, k1**2), np.full_like(centre, k2**2), centre], axis=1)
    return FixedHalf(loops.STRUCTURE, own, image, mean, variance, _single(settings), standard)


def compare(moving: torch.Tensor, half: FixedHalf, overlap: torch.Tensor | None) -> torch.Tensor:
    """Mean similarity of each item, `(M,)`, of moving images `(M, 1, *spatial)`, with its gradient (once)."""
    if moving.requires_grad and torch.is_grad_enabled():
        values: torch.Tensor = _Compare.apply(moving, half, overlap)  # type: ignore[no-untyped-call]
        return values
    return _swept(planes(moving), half, overlap, False).values


class _Compare(Function):
    @staticmethod
    def forward(ctx: Any, moving: torch.Tensor, half: FixedHalf, overlap: torch.Tensor | None) -> torch.Tensor:
        swept = _swept(planes(moving), half, overlap, True)
        ctx.half, ctx.numbers = half, (swept.standard, swept.factor, swept.bend)
        ctx.save_for_backward(moving, torch.from_numpy(swept.gradient))
        return swept.values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        moving, gradient = ctx.saved_tensors
        standard, factor, bend = ctx.numbers
        stack, own, each = planes(moving), ctx.half.windows, outer[0].numpy()
        numbers = [_single(number) for number in (standard.shift, standard.scale, each * factor, each * bend)]
        scaled = np.empty_like(stack)
        in_slabs(loops.scaled, len(stack), gradient.numpy(), stack, own.weights, own.depth, *numbers, scaled)
        return torch.from_numpy(scaled).reshape(moving.shape), None, None


@dataclass(frozen=True)
class _Swept:
    """Values `(M,)`; and their gradient by the moving image: `factor * gradient - bend * w s`."""

    values: torch.Tensor
    gradient: Floats
    standard: Standard
    factor: Doubles
    bend: Doubles


def _swept(stack: Floats, half: FixedHalf, overlap: torch.Tensor | None, wanted: bool) -> _Swept:
    """The sweep over all planes; the gradient is empty unless `wanted`."""
    own = half.windows
    standard = half.standard or _standard(statistics(stack, own.weights, own.depth))
    images = (stack, half.image, half.mean, half.variance, own.weights, _importance(own, overlap))
    geometry = (own.depth, own.taps, own.share, own.across, own.down)
    numbers = (_single(standard.shift), _single(standard.scale), half.settings)
    gradient, table = np.empty(stack.shape if wanted else (0, 0, 0), np.float32), np.empty((len(stack), 3))
    in_slabs(loops.sweep, len(stack), half.form, *images, *geometry, *numbers, gradient, table)
    value, flat, total = table.reshape(-1, own.depth, 3).sum(axis=1).T
    total = np.where(total > 0, total, 1.0)
    bend = _bend(standard, flat / total) if half.standard is None else np.zeros_like(total)
    return _Swept(torch.from_numpy(_single(value / total)), gradient, standard, standard.scale / total, bend)


def _importance(own: Windows, overlap: torch.Tensor | None) -> Floats:
    """Mask times overlap."""
    if overlap is None:
        return own.weights
    seen = planes(overlap)
    return seen * own.weights if own.weights.shape == seen.shape else seen


def _standard(known: Statistics) -> Standard:
    """To mean 0 and variance 1, as `regsim.metrics.ncc.standardise`: a constant image becomes 0."""
    single = np.finfo(np.float32)
    rounding = 64 * single.eps * np.maximum(abs(known.low), abs(known.high))
    constant = (known.variance <= rounding**2) | (known.variance < single.tiny)
    scale = np.where(constant, 0.0, 1 / np.sqrt(np.where(constant, 1.0, known.variance)))
    return Standard(known.mean, scale, known.total)


def _bend(standard: Standard, flat: Doubles) -> Doubles:
    """What `w s` is multiplied by where shift and scale are the moving image's own mean and 1 / deviation.

    They have a gradient, too. The mean's is 0, as no window's value depends on brightness. The deviation's comes from the
    flat windows alone, whose value grows with the square of contrast: `d value / d log scale = 2 flat`.
    """
    bend: Doubles = 2 * flat * standard.scale / np.where(standard.total > 0, standard.total, 1.0)
    return bend
