"""Register a T2-like image, turned and shifted by a known amount, with a T1 image; the bundled brain, a few seconds."""

import math

import regsim
from regsim.images.examples import brain
from regsim.prepare import coarser
from regsim.transforms import Rigid

fixed = coarser(brain("t1"), 4.0)  # your own: regsim.read_image("fixed.nii.gz")
known = Rigid(3, centre=fixed.grid.centre)
known.rotation.data[2] = math.radians(8)  # about z
known.translation.data[0] = 10.0  # mm along x
moving = regsim.warp(coarser(brain("t2"), 4.0), known.inverse())

found = regsim.register(fixed, moving, transform="rigid")
corners = fixed.grid.corners()
errors = (found.transform(corners) - known(corners)).norm(dim=1)
print(f"mean error at the corners: {errors.mean():.2f} mm")
for row in regsim.score(fixed, moving, ["nmi", "mind"], found.transform):
    print(f"{row.metric} {row.value:.4f}, {'higher' if row.higher_is_better else 'lower'} is better")

regsim.write_transform(found.transform, "transform.h5")
regsim.write_image(found.warped(), "warped.nii.gz")
