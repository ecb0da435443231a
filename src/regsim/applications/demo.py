"""The demonstration: a real brain, a known misalignment, and what regsim makes of it."""

import math
from dataclasses import replace

import torch

from regsim.applications.align import Request
from regsim.images.examples import brain
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.prepare import coarser, cropped
from regsim.registration.schedule import schedule_for
from regsim.transforms import Composite, Rigid, Transform, VelocityField, warp

ROTATION = 9.0
SHIFT = 12.0
BEND = 4.0
SPACING = 2.0
MARGIN = 8.0
NOISE = 0.02
NOTES = (
    "Both images come from the ICBM152 2009a T1 template, which is a real average of 152 scans. The moving image's T2-like "
    "contrast is painted from the template's grey and white matter maps: it is not a T2 scan.",
    "The misalignment was made by the program, so the true error is known at every voxel. Your own images have no such truth.",
)


def known_misalignment(grid: Grid, seed: int) -> Composite:
    """Rotation by 9 degrees about a random axis, a shift of 12 mm, and a smooth bend of up to 4 mm (a velocity field)."""
    generator = torch.Generator().manual_seed(seed)
    rigid = Rigid(3, grid.centre)
    axis, way = torch.randn((2, 3), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        rigid.rotation.copy_(axis / axis.norm() * math.radians(ROTATION))
        rigid.translation.copy_(way / way.norm() * SHIFT)
    coarse = torch.randn((1, 3, 5, 6, 5), generator=generator)
    bend = torch.nn.functional.interpolate(coarse, size=grid.shape, mode="trilinear", align_corners=True)[0]
    bend = bend / bend.norm(dim=0).max() * BEND
    return Composite([rigid, VelocityField(bend, grid)])


def demo_pair(seed: int = 0) -> tuple[Image, Image, Transform]:
    """Fixed T1, moving painted T2-like (noisy, misaligned), both at 2 mm, and the transform between them."""
    fixed = cropped(coarser(brain("t1"), SPACING), MARGIN)
    companion = warp(coarser(brain("t2"), SPACING), None, fixed)
    known = known_misalignment(fixed.grid, seed)
    wide = fixed.grid.padded(6)
    moving = warp(companion, known.inverse(wide), wide)
    noise = torch.randn(moving.data.shape, generator=torch.Generator().manual_seed(seed + 1)) * NOISE
    return replace(fixed, mask=None), replace(moving, data=moving.data + noise, mask=None), known


def demo_request(seed: int = 0, device: str = "cpu") -> Request:
    """The pair, and the default plan for a deformable registration."""
    fixed, moving, known = demo_pair(seed)
    return Request(
        fixed=fixed,
        moving=moving,
        transform="deformable",
        schedule=schedule_for("deformable", fixed.grid),
        known=known,
        command="demo",
        options={"rotation_degrees": ROTATION, "shift_mm": SHIFT, "bend_mm": BEND},
        seed=seed,
        device=device,
        check=True,
        notes=NOTES,
    )
