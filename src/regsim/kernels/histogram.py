"""Joint histogram with cubic B-spline (Parzen) windows, differentiable: the loop under mutual information.

Each voxel adds the outer product of two windows of four bins. float32 on the CPU goes through compiled loops
(`cpu/histogram.py`). Elsewhere both images' windows are laid out as dense rows of a block of voxels and multiplied,
block by block, so that memory stays small whatever the volume and the sum does not depend on thread order.
"""

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from regsim.kernels.choice import on_cpu

_BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}


def joint_histogram(first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor, bins: int) -> torch.Tensor:
    """Weighted joint histogram, `(M, bins, bins)` in float64; rows belong to `first`.

    Args:
        first: positions in bins, `(M, V)`, within [1, bins - 2]: the window of position p covers the four bins around
            it.
        second: alike.
        weights: weight of each voxel, `(M, V)`; no gradient.
        bins: at least 4.

    Example:
        >>> position = torch.full((1, 1), 2.0)
        >>> joint_histogram(position, position, torch.ones(1, 1), 5)[0].sum(1).round(decimals=4).tolist()
        [0.0, 0.1667, 0.6667, 0.1667, 0.0]
    """
    counts: torch.Tensor = _JointHistogram.apply(first, second, weights, bins)  # type: ignore[no-untyped-call]
    return counts


def look_up(first: torch.Tensor, second: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """`(M, V)`: the mean of `table` `(M, bins, bins)` under each voxel's pair of windows."""
    bins = table.shape[1]
    parts = [
        (torch.bmm(_dense(first[:, part], bins), table.to(first.dtype)) * _dense(second[:, part], bins)).sum(dim=2)
        for part in _blocks(first, bins)
    ]
    return torch.cat(parts, dim=1)


class _JointHistogram(Function):
    @staticmethod
    def forward(ctx: Any, first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor, bins: int) -> torch.Tensor:
        ctx.save_for_backward(first, second, weights)
        ctx.bins = bins
        if on_cpu(first):
            from regsim.kernels.cpu import histogram as loops

            return loops.counts(first, second, weights, bins)
        counts = first.new_zeros((first.shape[0], bins, bins), dtype=torch.float64)
        for part in _blocks(first, bins):
            rows = _dense(first[:, part], bins, weights[:, part])
            counts += torch.bmm(rows.transpose(1, 2), _dense(second[:, part], bins)).double()
        return counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        first, second, weights = ctx.saved_tensors
        table, slope = gradient.to(first.dtype), _slope
        if on_cpu(first):
            from regsim.kernels.cpu import histogram as loops

            slope = loops.slopes
        to_first = slope(second, first, weights, table.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        to_second = slope(first, second, weights, table) if ctx.needs_input_grad[1] else None
        return to_first, to_second, None, None


def _slope(other: torch.Tensor, own: torch.Tensor, weights: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Gradient with respect to the positions `own`, whose bins are the columns of `table`."""
    bins = table.shape[1]
    result = torch.empty_like(own)
    for part in _blocks(own, bins):
        rows = torch.bmm(_dense(other[:, part], bins), table)
        index, t = _cell(own[:, part], bins)
        inner = rows.gather(2, index)
        result[:, part] = (inner * _cubic_slope(t)).sum(dim=2) * weights[:, part]
    return result


def _dense(position: torch.Tensor, bins: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Windows as rows `(M, v, bins)`."""
    index, t = _cell(position, bins)
    values = _cubic(t) if weights is None else _cubic(t) * weights.unsqueeze(2)
    return position.new_zeros((*position.shape, bins)).scatter_(2, index, values)


def _cell(position: torch.Tensor, bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The four bins of each window, `(M, v, 4)`, and where in the cell the position lies, `(M, v)` in [0, 1]."""
    left = position.floor().clamp(1, bins - 3)
    index = left.long().unsqueeze(2) + torch.arange(-1, 3, device=position.device)
    return index, position - left


def _cubic(t: torch.Tensor) -> torch.Tensor:
    u, tt = 1 - t, t * t
    outer, inner = u * u * u / 6, 2 / 3 - tt + tt * t / 2
    last = tt * t / 6
    return torch.stack((outer, inner, 1 - outer - inner - last, last), dim=2)


def _cubic_slope(t: torch.Tensor) -> torch.Tensor:
    u, tt = 1 - t, t * t
    outer, inner, last = -u * u / 2, 1.5 * tt - 2 * t, tt / 2
    return torch.stack((outer, inner, -outer - inner - last, last), dim=2)


def _blocks(position: torch.Tensor, bins: int) -> list[slice]:
    elements = _BLOCK_ELEMENTS.get(position.device.type, _BLOCK_ELEMENTS["cpu"])
    step = max(1, elements // (bins * position.shape[0]))
    return [slice(start, start + step) for start in range(0, position.shape[1], step)]
