"""The checks of tensors that every metric and transform shares; each failure is one clear line."""

import torch

from regsim.errors import GridError, InputError


def image_batch(tensor: torch.Tensor, name: str) -> None:
    """Accept `(N, C, H, W)` or `(N, C, D, H, W)` of a floating type, at least one voxel everywhere."""
    if tensor.ndim not in (4, 5):
        raise InputError(f"{name}: expected (N, C, H, W) or (N, C, D, H, W), got {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise InputError(f"{name}: expected floating-point values, got {tensor.dtype}; call .float() first")
    if tensor.numel() == 0:
        raise InputError(f"{name}: is empty, shape {tuple(tensor.shape)}")


def same_shape(fixed: torch.Tensor, moving: torch.Tensor) -> None:
    """Fixed and moving must be on one grid, with the same number of channels."""
    if fixed.shape != moving.shape:
        raise GridError(
            f"fixed {tuple(fixed.shape)} and moving {tuple(moving.shape)} differ in shape; resample one onto the other"
        )


def mask_batch(mask: torch.Tensor, fixed: torch.Tensor, name: str = "mask") -> torch.Tensor:
    """A mask as weights in [0, 1] of the images' type; shape `(N or 1, 1, *spatial)`."""
    if mask.ndim != fixed.ndim or mask.shape[1] != 1 or mask.shape[2:] != fixed.shape[2:]:
        raise GridError(f"{name}: expected (N, 1, {', '.join(map(str, fixed.shape[2:]))}), got {tuple(mask.shape)}")
    if mask.shape[0] not in (1, fixed.shape[0]):
        raise GridError(f"{name}: expected 1 or {fixed.shape[0]} items, got {mask.shape[0]}")
    weights = mask.to(fixed.dtype)
    if mask.dtype != torch.bool:
        lowest, highest = weights.aminmax()
        if not bool((lowest >= 0) & (highest <= 1)):
            raise InputError(f"{name}: weights must lie in [0, 1]")
    return weights.expand(fixed.shape[0], *weights.shape[1:])


def finite(tensor: torch.Tensor, name: str) -> None:
    """Refuse NaN and Inf, with their number."""
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise InputError(f"{name}: {bad} of {tensor.numel()} voxels are not finite (NaN or Inf); replace or mask them")
