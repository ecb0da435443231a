"""Make docs/images/imse.png: what imse sees between the bundled T2 and a bent T1, and the T2 translated.

python docs/make_imse_picture.py
"""

from pathlib import Path

import matplotlib as mpl
import torch

from regsim.applications.translate import translated
from regsim.images import Image
from regsim.images.examples import brain
from regsim.metrics import load_metric
from regsim.prepare import coarser, rescaled
from regsim.transforms import ControlGrid, warp

TARGET = Path(__file__).parent / "images" / "imse.png"
SPACING, BEND = 1.5, 3.0


def main() -> None:
    """Write the picture."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    planes = []
    for contrast in ("t1", "t2"):
        volume = rescaled(coarser(brain(contrast), SPACING))
        planes.append(Image.of_array(volume.data[0, volume.grid.shape[0] // 2]))
    truth, source = planes
    bend = ControlGrid.with_spacing(truth.grid, 27.0)
    with torch.no_grad():
        bend.coefficients.copy_(torch.randn(bend.coefficients.shape, generator=torch.Generator().manual_seed(0)))
        points = truth.grid.points()
        bend.coefficients.mul_(BEND / SPACING / float((bend(points) - points).norm(dim=-1).mean()))
    like = Image.of_array(warp(truth, bend, truth).data[0])
    found = translated(source, like)
    local = load_metric("imse").map(like.batch, source.batch)[0]
    shown = {
        "T2": source.data,
        "reference: T1, bent by 3 mm": like.data,
        "T2 translated": found.data,
        "true T1": truth.data,
        "map: |E|": local,
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(12, 3.2))
    for axis, (name, data) in zip(axes, shown.items(), strict=True):
        axis.imshow(data[0].flip(0).detach(), cmap="magma" if name.startswith("map") else "gray")
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(TARGET, dpi=80)


if __name__ == "__main__":
    main()
