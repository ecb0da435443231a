"""scikit-image's structural similarity: NumPy, no gradient by automatic differentiation."""

import torch
from skimage.metrics import structural_similarity


def ssim(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Gaussian window, sigma 1.5, population variances, averaged over the windows that lie in the image."""
    arrays = [image[0, 0].detach().numpy() for image in (fixed, moving)]
    value = structural_similarity(
        *arrays, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return torch.tensor(float(value))
