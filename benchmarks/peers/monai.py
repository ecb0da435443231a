"""MONAI's losses as values in our sense (higher = better where ours is), with their gradient."""

import torch
from monai.losses import GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss, SSIMLoss


def lncc(fixed: torch.Tensor, moving: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Squared correlation in windows of 9 voxels a side; zero padding at the border."""
    loss = LocalNormalizedCrossCorrelationLoss(spatial_dims=fixed.ndim - 2, kernel_size=9, reduction=reduction)
    return -loss(moving, fixed)


def mutual_information(fixed: torch.Tensor, moving: torch.Tensor, kernel: str) -> torch.Tensor:
    """23 bins, Gaussian windows on both images, or "b-spline" (cubic on the moving, a box on the fixed image)."""
    return -GlobalMutualInformationLoss(kernel_type=kernel, num_bins=23)(moving, fixed)


def ssim(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Gaussian window of 11 voxels, sigma 1.5, averaged over the windows that lie in the image."""
    return 1 - SSIMLoss(spatial_dims=fixed.ndim - 2, data_range=1.0)(moving, fixed)
