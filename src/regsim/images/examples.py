"""The bundled real brain: the ICBM152 T1 template that nilearn installs, and two companions painted from its tissue maps."""

import importlib.util
from functools import cache
from pathlib import Path

import torch

from regsim.errors import InputError
from regsim.images.image import Image
from regsim.images.io import read_image

CONTRASTS = ("t1", "t2", "pd")
# Relative brightness of white matter, grey matter and fluid, as T2- and PD-weighted images show them.
PAINT = {"t2": (0.35, 0.55, 1.0), "pd": (0.55, 0.85, 0.75)}


def brain(contrast: str = "t1") -> Image:
    """The ICBM152 2009a nonlinear symmetric T1 template (1 mm, brain only), or a painted T2-like or PD-like companion.

    Convention:
        Only T1 is a real (averaged) scan. "t2" and "pd" are painted: white, grey and fluid fractions times a brightness
        each, modulated by a quarter of the T1's own detail so that they are not flat. Say so wherever they are shown.

    Args:
        contrast: "t1", "t2" or "pd"; all three lie on one grid.

    Returns:
        Values in [0, 1], 0 outside the brain.

    References:
        Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033. Installed with nilearn, licence in its documentation.
    """
    if contrast not in CONTRASTS:
        raise InputError(f"unknown contrast '{contrast}'; known: {', '.join(CONTRASTS)}")
    t1 = _stored("t1")
    top = torch.quantile(t1.data[t1.data > 0][::7], 0.999)
    scaled = (t1.data / top).clamp(0, 1)
    name = "ICBM152 T1" if contrast == "t1" else f"{contrast.upper()}-like (painted)"
    values = scaled if contrast == "t1" else _paint(scaled, *PAINT[contrast])
    return Image(values, t1.grid, name=name)


def brain_tissues() -> Image:
    """Where the brain is white matter (2), grey matter (1) or neither (0): the larger of the template's two maps."""
    white, grey = _stored("wm").data, _stored("gm").data
    labels = torch.where(white > grey, 2, 1) * ((white + grey) > 0.5 * (white + grey).max())
    return Image(labels.to(torch.int64), _stored("t1").grid, name="ICBM152 tissues")


def _paint(t1: torch.Tensor, white: float, grey: float, fluid: float) -> torch.Tensor:
    fractions = [_stored(tissue).data / _stored(tissue).data.max() for tissue in ("wm", "gm")]
    inside = (t1 > 0.05).float()
    rest = (inside - fractions[0] - fractions[1]).clamp(0, 1)
    flat = white * fractions[0] + grey * fractions[1] + fluid * rest
    return (flat * (1.125 - 0.25 * t1) * inside).clamp(0, 1)


@cache
def _stored(kind: str) -> Image:
    return read_image(_folder() / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")


def _folder() -> Path:
    """Where nilearn keeps its files; found without importing it, which would take seconds."""
    found = importlib.util.find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        raise InputError("the bundled brain comes with nilearn, which is not installed: pip install nilearn")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"
