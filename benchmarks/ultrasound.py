"""Pairs like T1 and ultrasound, made from label maps of heads: speckle, bright interfaces, shadows, and a fan that shows a part.

The brain's labels are painted as T1 (a mean for each tissue, noise), and as an ultrasound probe on the skull would show them:
an interface is bright where it faces the beam, tissue is speckle whose mean says little, bone and gas throw shadows, depth is
dim, and only a cone is seen. How an intensity of one maps to one of the other depends on where a voxel lies: mutual information
has little to go by.
"""

import csv
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.imse_data import place
from benchmarks.rough_pairs import COLUMNS, Aligned, Rough, misalignment, moved
from regsim.images import Image, read_image, write_image
from regsim.prepare import gaussian
from regsim.transforms import Affine, warp, write_transform

SPACING = 2.0
LEARNERS, REPEATS = 12, 1
SHIFT, ANGLE = (1.0, 12.0), 0.2
BRAIN = 500
T1 = {
    2: 0.85, 41: 0.85, 3: 0.55, 42: 0.55, 7: 0.8, 46: 0.8, 8: 0.55, 47: 0.55, 10: 0.7, 49: 0.7, 11: 0.6, 50: 0.6,
    12: 0.68, 51: 0.68, 13: 0.78, 52: 0.78, 16: 0.78, 17: 0.55, 53: 0.55, 18: 0.55, 54: 0.55, 28: 0.75, 60: 0.75,
}  # fmt: skip
FLUID = 0.15
ECHO = {4: 0.12, 43: 0.12, 5: 0.12, 44: 0.12, 24: 0.55, 14: 0.12, 15: 0.12, 2: 0.3, 41: 0.3, 3: 0.4, 42: 0.4}
OTHER_ECHO = 0.35
HALF_ANGLE = 32.0
SHADOWS = 3


@cache
def heads() -> tuple[Path, ...]:
    """The label maps, in order; the first twelve teach, the others judge."""
    return tuple(sorted((place() / "brain_label_maps").glob("*_labels.nii.gz")))


def painted(path: Path, seed: int) -> tuple[Image, Image]:
    """A head as T1 and as ultrasound, aligned, 2 mm; the ultrasound's mask is its fan."""
    labels = read_image(path, labels=True)
    steps = (SPACING,) * 3
    inside = warp(labels, None, labels.grid.with_spacing(steps))
    values = torch.where(inside.data < BRAIN, inside.data, torch.zeros_like(inside.data))[0]
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    t1 = _by_label(values, T1, FLUID) + 0.03 * torch.randn(values.shape, generator=generator)
    t1 = gaussian(t1[None, None], (0.4,) * 3)[0].clamp(0, 1) * (values > 0)
    echo, fan = _ultrasound(values, random, generator)
    return Image(t1, inside.grid, name=f"{path.name} t1"), Image(
        echo[None], inside.grid, fan[None], f"{path.name} echo"
    )


def _by_label(values: torch.Tensor, known: dict[int, float], other: float) -> torch.Tensor:
    found = torch.where(values > 0, other, 0.0)
    for label, mean in known.items():
        found[values == label] = mean
    return found


def _ultrasound(
    values: torch.Tensor, random: np.random.Generator, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image in [0, 1] and the fan, `(Z, Y, X)`."""
    inside = values > 0
    where = inside.nonzero().float()
    middle, reach = where.mean(dim=0), where.std(dim=0)
    way = torch.tensor(random.normal(size=3), dtype=torch.float32)
    way = way / way.norm()
    probe = middle + 2.3 * reach * way
    rows = torch.stack(
        torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in values.shape], indexing="ij"), dim=-1
    )
    beam = rows - probe
    depth = beam.norm(dim=-1).clamp_min(1e-3)
    ray = beam / depth[..., None]
    cosine = (ray * -way).sum(dim=-1)
    fan = (cosine > math.cos(math.radians(HALF_ANGLE))).float()
    echo = _by_label(values, ECHO, OTHER_ECHO)
    soft = gaussian(echo[None, None], (0.7,) * 3)[0, 0]
    slope = torch.stack(torch.gradient(soft), dim=-1)
    interface = (slope * ray).sum(dim=-1).abs() * 6.0
    speckle = torch.randn((2, *values.shape), generator=generator).square().sum(dim=0).sqrt() / 1.25
    speckle = gaussian(speckle[None, None], (0.6,) * 3)[0, 0]
    shown = (echo * speckle + interface) * torch.exp(-0.012 * SPACING * depth / 2)
    for _ in range(SHADOWS):
        turn = torch.tensor(random.normal(size=3), dtype=torch.float32) * 0.35 - way
        turn = turn / turn.norm()
        width, start = math.radians(random.uniform(3, 8)), random.uniform(0.2, 0.7) * float(depth[inside].max())
        near = ((ray * turn).sum(dim=-1) > math.cos(width)) & (depth > start)
        shown = torch.where(near, 0.15 * shown, shown)
    return (shown * inside).clamp(0, 1.5) / 1.5 * fan, fan


def _rough(path: Path, name: str, seed: int) -> Rough:
    fixed, echo = painted(path, seed)
    away = misalignment(fixed.grid.centre, seed, SHIFT, ANGLE)
    moving = moved(echo, away)
    subject = path.name.split("_")[0]
    aligned = Aligned(subject, path, path, Affine(3), "brain_label_maps (SynthSeg), painted", "Apache-2.0")
    mask = echo.mask
    carried = Image(moving.data, moving.grid, mask, name)
    return Rough(name, aligned, fixed, carried, Affine(3).set_homogeneous(away.homogeneous()))


def ultrasound_judges(repeats: int) -> Iterator[Rough]:
    """Pairs of four heads that no training shows."""
    for number, path in enumerate(heads()[LEARNERS:]):
        for repeat in range(repeats):
            yield _rough(path, f"{path.name.split('_')[0]}_{repeat}", 700_000 + 100 * number + repeat)


def write_ultrasound(folder: Path) -> Path:
    """The training pairs of twelve heads, with masks of the fan; the path of the list."""
    own = folder / "ultrasound"
    (own / "known").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, path in enumerate(heads()[:LEARNERS]):
        for repeat in range(REPEATS):
            pair = _rough(path, f"{path.name.split('_')[0]}_{repeat}", 1000 + 10 * number + repeat)
            files = {each: own / f"{pair.name}_{each}.nii.gz" for each in ("fixed", "moving", "mask")}
            write_image(pair.fixed, files["fixed"])
            write_image(Image(pair.moving.data, pair.moving.grid), files["moving"])
            assert pair.moving.mask is not None
            write_image(Image(pair.moving.mask, pair.moving.grid), files["mask"])
            write_transform(pair.known, own / "known" / f"{pair.name}.txt")
            aligned = pair.aligned
            rows.append((files["fixed"].resolve(), files["moving"].resolve(), pair.name, aligned.subject,
                         aligned.data_set, aligned.licence, files["mask"].resolve()))  # fmt: skip
    path = own / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([(*COLUMNS, "moving_mask"), *rows])
    return path
