"""How near a translated image comes to the truth: NMAE, PSNR and SSIM, defined once."""

import math

import torch

from regsim.errors import GridError, InputError
from regsim.evaluation.results import Row
from regsim.images.image import Image
from regsim.metrics import StructuralSimilarity
from regsim.prepare import foreground, intensity_ends

MOST = 100.0


class TranslationRow(Row):
    """Figures of a translation. `region`: "foreground" or "whole"."""

    method: str
    region: str
    nmae: float
    psnr: float
    ssim: float


def compare_translation(found: Image, truth: Image, method: str) -> list[TranslationRow]:
    """Two rows, over the truth's foreground and over all voxels that hold data.

    `NMAE = mean |x - t| / R`, `PSNR = -10 log10(mean (x - t)^2 / R^2)` dB (100 where the images are equal), SSIM with Gaussian
    windows and data range R. R is the truth's 99.9 % quantile less its 0.1 % quantile (`intensity_ends`): one range for every
    region and method. So `PSNR <= -20 log10(NMAE)` for every image (the mean square is at least the squared mean).

    Raises:
        GridError: two grids.
        InputError: a constant truth.
    """
    if not found.grid.same_as(truth.grid):
        raise GridError(f"the translation ({found.grid}) and the truth ({truth.grid}) lie on two grids")
    held = torch.ones_like(truth.data[:1])
    for image in (found, truth):
        held = held if image.mask is None else held * (image.mask > 0)
    if not bool(held.any()):
        raise InputError(f"'{truth.name}': no voxel where both the translation and the truth hold data")
    low, high = intensity_ends(truth)
    span = high - low
    inside = foreground(truth).to(held)[None] * held
    regions = {"foreground": inside if bool(inside.any()) else held, "whole": held}
    return [_row(found, truth, mask, span, method, region) for region, mask in regions.items()]


def _row(found: Image, truth: Image, mask: torch.Tensor, span: float, method: str, region: str) -> TranslationRow:
    away = (found.data[:1].double() - truth.data[:1].double())[mask > 0] / span
    square = float(away.square().mean())
    ssim = StructuralSimilarity(data_range=span)
    return TranslationRow(
        method=method,
        region=region,
        nmae=float(away.abs().mean()),
        psnr=min(MOST, -10 * math.log10(square)) if square > 0 else MOST,
        ssim=float(ssim(truth.batch[:, :1].float(), found.batch[:, :1].float(), mask[None].float())[0]),
    )
