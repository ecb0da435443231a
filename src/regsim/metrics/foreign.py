"""A stranger's metric under our contract: any module or function of two image batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from regsim.errors import InputError
from regsim.metrics.base import AbstractMetric, combine


class Foreign(AbstractMetric):
    """Wraps a callable that regsim has never seen, so that everything that takes a metric takes it. Not in the registry.

    Convention:
        The callable sees one channel: `(N, 1, H, W)` or `(N, 1, D, H, W)`; channels of colour images are compared one by
        one and averaged. It knows no mask, so both images are zero outside of it.

    Args:
        function: called with `(fixed, moving)`; gives `(N,)`, or one number a call (then it is called pair by pair).
        name: what tables call it.
        higher_is_better: which way its value goes when alignment improves.

    Raises:
        InputError: the callable gave something else.

    Example:
        >>> metric = Foreign(lambda fixed, moving: (fixed - moving).abs().amax(), "largest difference", False)
        >>> metric(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], Any], name: str, higher_is_better: bool):
        super().__init__()
        self.function = function if isinstance(function, nn.Module) else _Call(function)
        self.name = name  # type: ignore[misc]  # a fact of this object, where ours are facts of a class
        self.higher_is_better = higher_is_better  # type: ignore[misc]

    def _bind(self, fixed: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return fixed, weights

    def _compare(
        self, state: tuple[torch.Tensor, torch.Tensor | None], moving: torch.Tensor, overlap: torch.Tensor | None
    ) -> torch.Tensor:
        fixed, weights = state
        seen = combine(weights, overlap)
        if seen is not None:
            fixed = torch.where(seen > 0, fixed, torch.zeros_like(fixed))
            moving = torch.where(seen > 0, moving, torch.zeros_like(moving))
        values = self._call(fixed, moving)
        if values.numel() == 1 and len(fixed) > 1:
            values = torch.cat([self._call(fixed[i : i + 1], moving[i : i + 1]).reshape(-1) for i in range(len(fixed))])
        if values.numel() != len(fixed):
            raise InputError(
                f"metric '{self.name}' gave a tensor of shape {tuple(values.shape)} for {len(fixed)} pairs; "
                "expected one number a pair"
            )
        return values.reshape(-1).to(moving.dtype)

    def _call(self, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        values = self.function(fixed, moving)
        return values if isinstance(values, torch.Tensor) else torch.as_tensor(values, dtype=moving.dtype)


class _Call(nn.Module):
    """A plain function as a module."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], Any]):
        super().__init__()
        self.function = function

    def forward(self, fixed: torch.Tensor, moving: torch.Tensor) -> Any:
        """Call it."""
        return self.function(fixed, moving)
