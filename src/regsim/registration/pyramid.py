"""Both images at every spacing that a schedule asks for: each is made once, whatever the number of stages."""

from regsim.images.image import Image
from regsim.prepare import coarser, smoothed


class Pyramid:
    """The fixed and the moving image at any spacing.

    Args:
        fixed: at full resolution, intensities in [0, 1].
        moving: likewise.
    """

    def __init__(self, fixed: Image, moving: Image):
        self.originals = (fixed, moving)
        self._made: dict[tuple[int, float, float], Image] = {}

    def at(self, spacing: float, smoothing: float = 0.0) -> tuple[Image, Image]:
        """Both at a spacing (physical units), smoothed by a Gaussian of `smoothing` voxels of that spacing."""
        return self._at(0, spacing, smoothing), self._at(1, spacing, smoothing)

    def _at(self, which: int, spacing: float, smoothing: float) -> Image:
        key = (which, round(spacing, 6), smoothing)
        if key not in self._made:
            if smoothing > 0:
                plain = self._at(which, spacing, 0.0)
                self._made[key] = smoothed(plain, (smoothing,) * plain.ndim)
            else:
                self._made[key] = coarser(self.originals[which], spacing)
        return self._made[key]
