"""Normalisation of each channel of each image, with a gradient that is as fast in channels_last as in the usual order."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_TYPES = (torch.float32, torch.float64, torch.bfloat16)


class ChannelNorm(nn.GroupNorm):
    r"""`nn.GroupNorm(channels, channels)`: the same values, weights and names, about 10 times faster to train on a CPU.

    $y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta$, with mean and variance of each channel of each item.

    torch's own gradient takes 60 ms for `(16, 16, 128, 128)` in channels_last, 3 ms in the usual order; this one takes 6 in
    channels_last. Elsewhere (GPU, no gradient, TorchScript, usual order) torch's own is used.

    Args:
        channels: of the input, `(N, channels, *spatial)`.
        eps: added to the variance.

    Example:
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
        >>> ChannelNorm(1)(x).flatten().tolist()  # doctest: +ELLIPSIS
        [-1.06..., -0.53..., 0.0, 1.60...]
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__(channels, channels, eps)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`(N, C, *spatial)` in and out."""
        if not torch.jit.is_scripting() and _is_worth_it(input):  # type: ignore[attr-defined]
            return _channel_norm(input, self.weight, self.bias, self.eps)
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _is_worth_it(x: torch.Tensor) -> bool:
    """Where torch's own gradient is the slow one."""
    if torch._C._get_tracing_state() is not None or not torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return x.ndim in (4, 5) and x.stride(1) == 1 and x.shape[1] > 1 and x.dtype in _TYPES


def _channel_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """In float32 at least: sums over half-precision values would lose what the norm is for."""
    full = x.float() if x.dtype == torch.bfloat16 else x
    normalised: torch.Tensor = _ChannelNorm.apply(full, weight, bias, eps)  # type: ignore[no-untyped-call]
    return normalised.to(x.dtype)


class _ChannelNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
        count, channels = x.shape[:2]
        y, mean, scale = torch.native_group_norm(x, weight, bias, count, channels, x[0, 0].numel(), channels, eps)
        context.save_for_backward(x, weight, mean, scale)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """With h = (x - mean) * scale and S voxels: dx = weight * scale * (dy - sum(dy)/S - h * sum(dy h)/S)."""
        x, weight, mean, scale = context.saved_tensors
        values, slopes = (tensor.movedim(1, -1).flatten(1, -2) for tensor in (x, upstream))
        of_bias = slopes.sum(1)
        of_weight = ((slopes * values).sum(1) - of_bias * mean) * scale
        along = weight * scale
        across = -along * of_weight * scale / values.shape[1]
        constant = -along * of_bias / values.shape[1] - across * mean
        gradient = torch.addcmul(constant[:, None], values, across[:, None]).addcmul_(slopes, along[:, None])
        back = gradient.reshape(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)
        return back, of_weight.sum(0), of_bias.sum(0), None
