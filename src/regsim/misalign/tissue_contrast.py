"""Contrasts by tissue: label maps painted, and T1 scans recoloured, as T1, T2, FLAIR or PD scans show fluid, grey and white."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from regsim.misalign.change import PositiveRange, Share, happens, uniform
from regsim.misalign.curves import looked_up
from regsim.misalign.smoothing import blurred, smooth_field
from regsim.misalign.tissues import STRUCTURES
from regsim.settings import Settings

BINS = 256
AIR = 0.02
# A cubic spline through normal values varies less than they do: by about this factor along each axis.
SPLINE_DEVIATION = 0.7
# How bright each structure is: a share of the fluid's intensity, or of the way from grey to white matter.
FLUIDS = ("ventricles", "csf")
SHARES = {
    "other": (0.0, 0.0),
    "ventricles": (1.0, 1.0),
    "csf": (0.8, 1.1),
    "cortex": (0.0, 0.0),
    "deep_grey": (0.0, 0.9),
    "hippocampus": (-0.1, 0.3),
    "white": (1.0, 1.0),
    "deep_white": (0.5, 1.1),
}
# Scans: each tissue's intensity as a share of another's (None: of the range), in the order in which they are drawn.
Order = tuple[tuple[str, str | None, tuple[float, float]], ...]
SCANS: dict[str, Order] = {
    "t1": (("white", None, (0.55, 0.95)), ("grey", "white", (0.55, 0.88)), ("csf", "grey", (0.15, 0.7))),
    "t2": (("csf", None, (0.7, 1.0)), ("grey", "csf", (0.45, 0.8)), ("white", "grey", (0.55, 0.92))),
    "flair": (("grey", None, (0.5, 0.85)), ("white", "grey", (0.65, 0.93)), ("csf", "white", (0.05, 0.5))),
    "pd": (("grey", None, (0.6, 0.9)), ("white", "grey", (0.6, 0.92)), ("csf", "grey", (0.85, 1.15))),
}


class ContrastSettings(Settings):
    """Which contrasts are drawn.

    Args:
        random: share of the drawn contrasts with three independent intensities; the others are like those of T1, T2,
            FLAIR or PD scans, all equally often (see `SCANS`).
        recoloured: share of the views of labelled scans that are recoloured by tissue; the others stay as scanned. Scans
            that are no T1, or whose labels lack ventricles, cortex or white matter, are never recoloured.
        brightness: range of what the 99.5th percentile of a view becomes, at last; values are cut at 1.3.
    """

    random: Share = 0.1
    recoloured: Share = 0.75
    brightness: PositiveRange = (0.7, 1.1)


@dataclass(frozen=True)
class Shades:
    """Intensities of fluid, grey and white matter, in about [0, 1]."""

    csf: float
    grey: float
    white: float


def draw_shades(settings: ContrastSettings, generator: torch.Generator) -> Shades:
    """A contrast.

    Example:
        >>> draw_shades(ContrastSettings(random=1.0), torch.Generator().manual_seed(0)) # doctest: +ELLIPSIS
        Shades(csf=0.7682..., grey=0.0884..., white=0.1320...)
    """
    if bool(happens(1, settings.random, generator)):
        return Shades(*torch.rand(3, generator=generator).tolist())
    order = list(SCANS.values())[int(torch.randint(len(SCANS), (), generator=generator))]
    drawn: dict[str | None, float] = {None: 1.0}
    for (tissue, other, (low, high)), share in zip(order, torch.rand(3, generator=generator).tolist(), strict=True):
        drawn[tissue] = drawn[other] * (low + (high - low) * share)
    return Shades(drawn["csf"], drawn["grey"], drawn["white"])


def t1_shades(image: torch.Tensor, structures: torch.Tensor) -> Shades | None:
    """What a scan's tissues look like: 10th percentile of the ventricles, medians of cortex and white matter.

    The percentile, since the edges of ventricles are brighter than their fluid. None where one of them is missing or
    where they do not get brighter in this order, as they do in a T1.

    Args:
        image: `(Z, Y, X)`, in [0, 1].
        structures: `(Z, Y, X)`, places in `STRUCTURES`.
    """
    found = []
    for name, share in (("ventricles", 0.1), ("cortex", 0.5), ("white", 0.5)):
        values = image[structures == STRUCTURES.index(name)]
        if len(values) == 0:
            return None
        found.append(float(values.kthvalue(1 + round(share * (len(values) - 1))).values))
    rising = AIR < found[0] + AIR < found[1] and found[1] + AIR < found[2]
    return Shades(*found) if rising else None


def recoloured(image: torch.Tensor, own: Shades, wanted: Shades, generator: torch.Generator) -> torch.Tensor:
    """A T1 in another contrast: a curve of straight pieces that takes its tissues' intensities to the wanted ones.

    Air stays dark. Darker than fluid becomes darker than the wanted fluid; what is brighter than white matter (fat)
    runs to an intensity of its own in [0, 1.2], which would be reached at 1.5.

    Args:
        image: `(N, 1, *spatial)`, in [0, 1].
        own, wanted: the image's intensities and those that they become.
        generator: draws the two ends of the curve.
    """
    dark, fat = torch.rand(2, generator=generator).tolist()
    ends = (wanted.csf * 0.5 * dark if wanted.csf > 0.3 else 0.0), 1.2 * fat
    curve = np.interp(
        np.linspace(0, 1, BINS + 1),
        (0.0, own.csf, own.grey, own.white, 1.5),
        (ends[0], wanted.csf, wanted.grey, wanted.white, ends[1]),
    )
    table = torch.from_numpy(curve.astype(np.float32)).expand(len(image), -1)
    return torch.where(image < AIR, 0.0, looked_up(image.clamp(0, 1), table)).clamp_(0, 1)


@dataclass(frozen=True)
class Palette:
    """How label maps are painted: each label its mean, spread and texture; then a blur, for the edges' partial volume.

    Args:
        structures: `(L,)`, what each label is, as places in `STRUCTURES`; label 0 is the background.
        alike: `(L,)`, the label that each one shares its looks with (its own place, or its twin's).
    """

    structures: torch.Tensor
    alike: torch.Tensor

    jitter: ClassVar[float] = 0.02
    spread: ClassVar[tuple[float, float]] = (0.0, 0.06)
    texture: ClassVar[tuple[float, float]] = (-0.08, 0.08)
    knots: ClassVar[int] = 8
    dark: ClassVar[float] = 0.9
    sharp: ClassVar[float] = 0.6

    def __call__(self, labels: torch.Tensor, shades: Shades, generator: torch.Generator) -> torch.Tensor:
        """Labels 0 ... L - 1 `(*spatial)` as an image `(1, 1, *spatial)`, in [0, 1]."""
        means, spreads, textures = self._looks(shades, generator)
        coarse = torch.randn((1, 1, *[self.knots] * labels.ndim), generator=generator)
        field = smooth_field(coarse, labels.shape) / SPLINE_DEVIATION**labels.ndim
        image = torch.randn(field.shape, generator=generator).mul_(spreads[labels])
        image.addcmul_(field, textures[labels]).add_(means[labels])
        crisp = bool(happens(1, self.sharp, generator))
        sigma = uniform(1, (0.4, 0.9) if crisp else (0.9, 1.8), generator)
        return blurred(image, sigma).clamp_(0, 1)

    def _looks(self, shades: Shades, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, spread and texture of every label, `(L,)` each; both sides of a structure look alike."""
        count = len(self.structures)
        low, high = torch.tensor(list(SHARES.values()))[self.structures].unbind(dim=1)
        share = low + (high - low) * torch.rand(count, generator=generator)
        fluid = torch.tensor([name in FLUIDS for name in SHARES])[self.structures]
        level = torch.where(fluid, shades.csf * share, shades.grey + (shades.white - shades.grey) * share)
        level += self.jitter * torch.randn(count, generator=generator)
        means = torch.where(self.structures == 0, torch.rand(count, generator=generator), level)
        spreads, textures = (uniform(count, ends, generator) for ends in (self.spread, self.texture))
        means, spreads, textures = means[self.alike], spreads[self.alike], textures[self.alike]
        lit = float(torch.rand((), generator=generator)) >= self.dark
        means[0] = 0.5 * torch.rand((), generator=generator) if lit else 0.0
        spreads[0] = textures[0] = 0.0
        return means, spreads, textures
