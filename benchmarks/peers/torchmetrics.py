"""torchmetrics' structural similarity."""

import torch
from torchmetrics.functional.image import structural_similarity_index_measure


def ssim(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Gaussian window of 11 voxels, sigma 1.5; the border is reflected, and volumes are averaged over all voxels."""
    found = structural_similarity_index_measure(moving, fixed, sigma=1.5, kernel_size=11, data_range=1.0)
    assert isinstance(found, torch.Tensor)
    return found


def local_ssim(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """The value of each voxel's window."""
    _, local = structural_similarity_index_measure(
        moving, fixed, sigma=1.5, kernel_size=11, data_range=1.0, return_full_image=True
    )
    return local
