"""What a landscape covers, and how finely."""

from typing import Self

from pydantic import Field

from regsim.settings import Settings


class LandscapeSettings(Settings):
    """How far, how finely and how often. Lengths are in the unit of the pair's grid (px or mm).

    Args:
        reach: the largest true error of random misalignments, and of shifts along an axis.
        shift, degrees, steps: the surface: `steps x steps` cells over +-shift and +-degrees.
        wide_shift, wide_degrees, wide_steps: the wide surface that the capture range is read from.
        axis_degrees, percent, axis_steps: responses along one rotation or the scale; steps of every axis.
        fine_reach, fine_steps, offset_noise: the optimum is sought within +-fine_reach (unit and degrees); sigma of the noise.
        ladder: random misalignments a pair. hidden: the same with the outline hidden.
        distances, repeats: the AUC is of pairs misaligned by these against aligned ones; draws of each a pair.
        hidden_distance: the same with the outline hidden.
        balance_degrees: the rotation that is weighed against a shift of equal true error.
        noise: sigma of noise on both images of random misalignments; `identical_noise` where the images are identical.
        swapped: pairs whose arguments are exchanged.
        surfaces: of how many subjects surfaces are computed, the first pair of each; 0 = all.
        resamples: draws of the bootstrap; 0 = no intervals.
        seed: of everything random.
    """

    reach: float = Field(default=12.0, gt=0)
    shift: float = Field(default=8.0, gt=0)
    degrees: float = Field(default=4.0, gt=0)
    steps: int = Field(default=17, ge=5)
    wide_shift: float = Field(default=24.0, gt=0)
    wide_degrees: float = Field(default=16.0, gt=0)
    wide_steps: int = Field(default=17, ge=5)
    axis_degrees: float = Field(default=12.0, gt=0)
    percent: float = Field(default=10.0, gt=0, lt=50)
    axis_steps: int = Field(default=25, ge=5)
    fine_reach: float = Field(default=2.0, gt=0)
    fine_steps: int = Field(default=17, ge=5)
    offset_noise: float = Field(default=0.1, ge=0)
    ladder: int = Field(default=48, ge=4)
    hidden: int = Field(default=32, ge=4)
    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    hidden_distance: float = Field(default=2.0, gt=0)
    repeats: int = Field(default=8, ge=2)
    balance_degrees: float = Field(default=4.0, gt=0)
    noise: float = Field(default=0.0, ge=0)
    identical_noise: float = Field(default=0.05, ge=0)
    swapped: int = Field(default=4, ge=1)
    surfaces: int = Field(default=0, ge=0)
    resamples: int = Field(default=500, ge=0)
    seed: int = Field(default=0, ge=0)

    @classmethod
    def preset(cls, ndim: int, quick: bool = False, **changes: object) -> Self:
        """The defaults for pictures or volumes; `quick` takes about a fifth of the time, for a look."""
        values: dict[str, object] = {}
        if ndim == 3:
            values = {
                "steps": 9,
                "wide_steps": 9,
                "axis_steps": 13,
                "fine_steps": 9,
                "ladder": 24,
                "hidden": 16,
                "repeats": 4,
            }
        if quick:
            values = {
                "steps": 9,
                "wide_steps": 9,
                "axis_steps": 9,
                "fine_steps": 9,
                "ladder": 24,
                "hidden": 16,
                "repeats": 4,
            }
            values["resamples"] = 200
            values |= {"steps": 5, "wide_steps": 5, "fine_steps": 5, "ladder": 12, "hidden": 8} if ndim == 3 else {}
        return cls.checked({**values, **changes})

    def smaller(self, share: float) -> Self:
        """The same with misalignments reduced to a share; distances of the AUC stay what they are."""
        if share >= 1:
            return self
        names = ("reach", "shift", "degrees", "wide_shift", "wide_degrees", "axis_degrees", "percent")
        return self.model_copy(update={name: getattr(self, name) * share for name in names})
