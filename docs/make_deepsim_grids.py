"""Make docs/images/deepsim_grids.png: the fields that deepsim, NCC and NCC with heavier penalties find between two noisy brains.

python docs/make_deepsim_grids.py     (needs the real sets: set REGSIM_DATA)
"""

from pathlib import Path

import matplotlib
import torch

from benchmarks.data import data_folder
from benchmarks.deformable_sets import PAIRS
from benchmarks.feature_loss import people, smoother, with_noise
from regsim.images import Image
from regsim.registration import register
from regsim.transforms import Transform

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURE = Path(__file__).parent / "images" / "deepsim_grids.png"
DRIVERS = {"deepsim": "deepsim-brain-3d", "ncc": "ncc", "ncc, four times the penalties": "ncc*4"}
SIGMA, STEP = 0.1, 3


def lines(transform: Transform, image: Image, middle: int) -> torch.Tensor:
    """Where every third voxel of the middle plane is mapped, in plane, mm: `(rows, columns, 2)`."""
    with torch.no_grad():
        points = image.grid.points()[middle, ::STEP, ::STEP]
        return transform(points)[..., :2]


def main() -> None:
    """Register and draw."""
    place = data_folder()
    assert place is not None, "set REGSIM_DATA"
    fixed, moving, _ = people(place, PAIRS[0], "t1")
    noisy = [with_noise(image, SIGMA, seed) for seed, image in enumerate((fixed, moving))]
    middle = fixed.grid.shape[0] // 2
    figure, axes = plt.subplots(1, 1 + len(DRIVERS), figsize=(14, 4.5))
    axes[0].imshow(noisy[0].data[0, middle], cmap="gray", origin="upper")
    axes[0].set_title("fixed image, noise of sigma .1")
    for axis, (title, metric) in zip(axes[1:], DRIVERS.items(), strict=True):
        name, plan = smoother(metric, fixed)
        found = lines(register(*noisy, name, "deformable", schedule=plan).transform, fixed, middle)
        for way in (found, found.transpose(0, 1)):
            axis.plot(way[..., 0].T, way[..., 1].T, color="black", linewidth=0.6)
        axis.set_aspect("equal")
        axis.invert_yaxis()
        axis.set_title(title)
    for axis in axes:
        axis.set_axis_off()
    figure.tight_layout(pad=1.5)
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
