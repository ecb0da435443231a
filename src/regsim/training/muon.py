"""Muon for networks of convolutions: torch's, which takes matrices alone, with AdamW for what is none."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class ConvolutionMuon(Optimizer):
    """Momentum made orthogonal (Muon) for kernels and matrices, each as a matrix with a row for each output; AdamW for the rest.

    Both take the same learning rate: Muon's step is scaled to the size of one of AdamW's ("match_rms_adamw"). What an update of
    a kernel changes has the same size in all directions that its inputs and outputs span, where Adam follows the few that
    dominate the gradient. The evaluator of `imse` for pictures needs a fifth of the steps (docs/lab-notes.md).

    Args:
        parameters: of the network.
        learning_rate, weight_decay: of both.

    References:
        Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024, kellerjordan.github.io/posts/muon.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float):
        self.kernels = [parameter for parameter in parameters if parameter.ndim > 1]
        self.matrices = [nn.Parameter(_matrix(kernel.detach()).clone()) for kernel in self.kernels]
        others = [parameter for parameter in parameters if parameter.ndim <= 1]
        shared: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
        self.parts: list[Optimizer] = []
        if self.matrices:
            self.parts.append(Muon(self.matrices, adjust_lr_fn="match_rms_adamw", **shared))
        if others:
            self.parts.append(AdamW(others, **shared))
        super().__init__([group for part in self.parts for group in part.param_groups], shared)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; kernels without a gradient stay."""
        assert closure is None
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.data = _matrix(
                kernel.detach()
            ).clone()  # a view cannot be copied back onto itself in every memory order
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad)
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step()
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            kernel.copy_(matrix.reshape(kernel.shape))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of the network's own weights."""
        super().zero_grad(set_to_none)
        for kernel in self.kernels:
            kernel.grad = None


def _matrix(kernel: torch.Tensor) -> torch.Tensor:
    return kernel.reshape(len(kernel), -1)
