"""Heads for `benchmarks.known_error_pairs`, and the two ways in which a pair of images reads one anatomy.

The fixed image reads the anatomy at `A(p) = C F(p)`, the moved image at `B(q) = C M(q)`. C is common to both: it turns,
shifts and bends. F and M part from each other symmetrically. A point p of the fixed image lies at `q = B^-1 A(p)` in the
moved image, found by iteration: `|q - p|` is the true error.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from regsim.errors import InputError
from regsim.images import Grid, Image, read_image
from regsim.misalign.motion import CommonSettings, MotionSettings, draw_motion, grid_points
from regsim.prepare import coarser, foreground, rescaled
from regsim.transforms import Affine, Composite, DisplacementField, Transform, read_transform, warp

CONTRASTS = ("T1-T1", "T1-T2", "T1-FLAIR")
KINDS = ("rigid", "affine", "elastic", "mixed")
DARK, SEEN_SAMPLES = 0.02, 3000
MARGIN, BEYOND, FIELD_SPACING = 16.0, 40.0, 4.0
BENT, SMOOTHNESS = 6.0, (12.0, 25.0)
FLATTEST, FIT = 0.15, 1.3
COMMON = CommonSettings(rotation=6.0, translation=4.0, zoom=1.04, shear=0.02, flips=False)
STILL = CommonSettings(rotation=0.0, translation=0.0, zoom=1.0, shear=0.0, flips=False)
STEPS, CLOSE, SOLVED = 40, 2e-3, 0.1


@dataclass(frozen=True)
class Head:
    """One anatomy in several contrasts; the middle of the head is the origin.

    Args:
        name, person: unique name, and whose head it is.
        images: contrast ("T1", "T2", "FLAIR") to an image in [0, 1].
        seen: 1 where there is anatomy, else 0, on the grid of the images.
        stripped: nothing lies beyond the borders of the images (else both images of a pair end there).
    """

    name: str
    person: str
    images: dict[str, Image]
    seen: Image
    stripped: bool = True

    def grid(self, spacing: float, margin: float = MARGIN) -> Grid:
        """Voxels of `spacing` around the head, mm, with a margin for its motion."""
        there = self.seen.data[0].nonzero()
        size = (there.amax(dim=0) - there.amin(dim=0) + 1).flip(0).numpy() * np.asarray(self.seen.grid.spacing)
        count = tuple(math.ceil((length + 2 * margin) / spacing) for length in size)
        direction = np.asarray(self.seen.grid.direction)
        origin = tuple((direction @ (-(np.asarray(count) - 1) / 2 * spacing)).tolist())
        return Grid(count, (spacing,) * 3, origin, self.seen.grid.direction)

    def points(self) -> torch.Tensor:
        """Some points of the anatomy, evenly taken, `(points, 3)`."""
        found = self.seen.grid.points()[self.seen.data[0] > 0]
        return found[:: max(1, len(found) // SEEN_SAMPLES)]

    def shown(self, contrast: str, transform: Transform, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """One contrast read through a transform: values `(1, *shape)`, and where there is data (bool)."""
        carried = warp(self.images[contrast], transform, grid)
        if self.stripped or carried.mask is None:
            return carried.data, torch.ones_like(carried.data, dtype=torch.bool)
        held = carried.mask > 0
        return carried.data * held, held


def head_of(name: str, person: str, images: Iterable[Image], spacing: float, stripped: bool = True) -> Head:
    """Aligned images on one grid, named by contrast, at about `spacing` and in [0, 1]; the middle becomes the origin."""
    scaled = [coarser(rescaled(image), spacing) for image in images]
    seen = _anatomy(scaled) if stripped else _closed(foreground(replace(scaled[0], mask=None)), 4)
    there = seen.nonzero()
    middle = scaled[0].grid.index_to_physical((there.amin(dim=0) + there.amax(dim=0)).flip(0).double() / 2)
    origin = tuple((np.asarray(scaled[0].grid.origin) - middle.numpy()).tolist())
    grid = replace(scaled[0].grid, origin=origin)
    found = {image.name: Image(image.data, grid, image.mask, image.name) for image in scaled}
    return Head(name, person, found, Image(seen[None].float(), grid, name="seen"), stripped)


def _anatomy(images: Iterable[Image]) -> torch.Tensor:
    """Where a stripped head is not dark, closed and without holes; the largest part. `(*shape)` bool."""
    bright = torch.stack([image.data[0] for image in images]).amax(dim=0) > DARK
    closed = sitk.GetImageFromArray(_closed(bright, 2).to(torch.uint8).numpy())
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(closed), sortByObjectSize=True)
    return torch.from_numpy(sitk.GetArrayFromImage(parts) == 1)


def _closed(marked: torch.Tensor, radius: int) -> torch.Tensor:
    stored = sitk.GetImageFromArray(marked.to(torch.uint8).numpy())
    closed = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(stored, (radius,) * 3))
    return torch.from_numpy(sitk.GetArrayFromImage(closed) > 0)


class Heads:
    """The heads of the real sets that no training sees, read when asked for.

    Args:
        place: the folder that holds the sets.
    """

    def __init__(self, place: Path):
        self.place = place
        if not (place / "brain_t1_flair_labels").is_dir():
            raise InputError(f"'{place}' has no folder 'brain_t1_flair_labels': give the folder that holds the sets")
        self.read = lru_cache(maxsize=64)(self._read)

    def names(self, contrasts: str) -> tuple[str, ...]:
        """The heads that have both contrasts of "T1-T1", "T1-T2" or "T1-FLAIR"."""
        nc = tuple(path.name[4:8] for path in sorted((self.place / "brain_t1_flair_labels").glob("*_t1.nii.gz")))
        return {
            "T1-T1": (*nc, "msx19", "br002/ses0", "br002/ses1", "lapa", "lapb", "vxm1"),
            "T1-T2": ("msx19", "msl04", "br002/ses0", "br002/ses1", "avg152"),
            "T1-FLAIR": (*nc, "msx19", "msl04"),
        }[contrasts]

    def fine_names(self, contrasts: str) -> tuple[str, ...]:
        """Those among them that were given at 1 mm."""
        return {"T1-T1": ("lapa", "lapb"), "T1-T2": ("msx19", "br002/ses0"), "T1-FLAIR": ("msx19",)}[contrasts]

    def _read(self, name: str, spacing: float = 2.0) -> Head:
        if name == "msl04":
            return self._thick("brain_t1t2_native/sub-msl04_ses1", name, spacing)
        stem, contrasts = self._files(name)
        images = [replace(read_image(Path(f"{stem}_{c.lower()}.nii.gz")), name=c) for c in contrasts]
        return head_of(name, name.partition("/")[0], images, spacing, stripped=name != "avg152")

    def _files(self, name: str) -> tuple[Path, tuple[str, ...]]:
        if name.startswith("nc"):
            return self.place / "brain_t1_flair_labels" / f"sub-{name}", ("T1", "FLAIR")
        if name.startswith("br"):
            return self.place / "brain_longitudinal" / f"sub-{name.replace('/', '_')}", ("T1", "T2")
        if name == "msx19":
            return self.place / "brain_t1t2_mni" / f"sub-{name}", ("T1", "T2", "FLAIR")
        if name == "avg152":
            return self.place / "brain_templates" / name, ("T1", "T2")
        return self.place / "brain_t1_oasis" / f"sub-{name}", ("T1",)

    def _thick(self, stem: str, name: str, spacing: float) -> Head:
        """Thick slices, each contrast on its own grid: brought onto the FLAIR image's extent at equal steps."""
        flair = read_image(self.place / f"{stem}_flair.nii.gz")
        grid = flair.grid.with_spacing((spacing,) * 3)
        images = [replace(warp(coarser(flair, spacing), None, grid), name="FLAIR")]
        for contrast in ("T1", "T2"):
            low = contrast.lower()
            known = read_transform(self.place / f"{stem}_{low}_onto_flair_itk.txt", 3)
            moving = coarser(read_image(self.place / f"{stem}_{low}.nii.gz"), spacing)
            images.append(replace(warp(moving, known, grid), name=contrast))
        return head_of(name, name, images, spacing, stripped=False)


@dataclass(frozen=True)
class Parting:
    """Where the two images of a pair read the anatomy: A and B, each a linear map after a smooth bend."""

    fixed: Composite
    moving: Composite


@torch.no_grad()
def draw_parting(
    kind: str, target: float, head: Head, generator: torch.Generator, elastic: tuple[float, float] = (0.25, 0.75)
) -> Parting:
    """Draw two maps that differ by `target` mm on average over the head; their bend and motion in common is drawn, too.

    Args:
        kind: "rigid", "affine", "elastic", or "mixed" (affine and elastic).
        target: mean error, mm; 0: the two maps are one.
        head: over whose anatomy the mean is taken.
        elastic: smallest and largest share of the elastic part in "mixed" motions; it ends at 6 mm.
    """
    size = _size(head.grid(FIELD_SPACING, BEYOND + MARGIN))
    share = elastic[0] + (elastic[1] - elastic[0]) * float(torch.rand((), generator=generator))
    share = {"elastic": 1.0, "mixed": share}.get(kind, 0.0)
    bent = share * target if kind == "elastic" else min(share * target, BENT)
    common, apart = _bends(size, bent, generator)
    linear = _linear("rigid" if kind == "rigid" else "affine", target - bent, size, generator)
    turn = _linear_draw("rigid", 1.0, size, COMMON, generator)["common"][0].double()
    row = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    both = [Affine(3).set_homogeneous(torch.cat([turn, row])), DisplacementField(common, _field_grid(size))]
    points, factor = head.points(), 1.0
    for _ in range(4):
        parting = Parting(*(_map(both, part * linear, 2 * part * apart) for part in (0.5 * factor, -0.5 * factor)))
        found = float((places(parting.moving, parting.fixed(points), points)[0] - points).norm(dim=-1).mean())
        if target == 0 or abs(found - target) < 0.01 * target:
            break
        factor *= target / found
    return parting


def _map(common: list[Transform], linear: torch.Tensor, bend: torch.Tensor) -> Composite:
    """The common maps after a linear one after a bend; what does nothing is left out."""
    parts = [*common]
    if bool(linear.any()):
        parts.append(Affine(3).set_homogeneous(torch.linalg.matrix_exp(linear)))
    if bool(bend.any()):
        parts.append(DisplacementField(bend, _field_grid(tuple(bend.shape[1:]))))
    whole = Composite(parts)
    whole.requires_grad_(False)
    return whole


def _size(grid: Grid) -> tuple[int, ...]:
    side = max(grid.size)
    return (side, side, side)


def _field_grid(size: tuple[int, ...]) -> Grid:
    plain = Grid.of(size, FIELD_SPACING)
    return replace(plain, origin=tuple((-plain.centre).tolist()))


@torch.no_grad()
def _bends(size: tuple[int, ...], error: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The common bend and half of the bend apart, `(3, *size)` each; drawn again, smoother, where they fold."""
    low, high = SMOOTHNESS
    here, grid = grid_points(size, FIELD_SPACING), _field_grid(size)
    while True:
        settings = MotionSettings(
            error=(max(error, 1e-3),) * 2, aligned=0.0 if error > 0 else 1.0, rigid=0.0, elastic=1.0,
            elastic_error=BENT, smoothness=(low, high), common=STILL,
        )  # fmt: skip
        drawn = draw_motion(1, size, FIELD_SPACING, settings, generator)
        first, second = ((where[0] - here).movedim(-1, 0) for where in (drawn.fixed, drawn.moving))
        common, apart = (first + second) / 2, (first - second) / 2
        fields = (common, FIT * apart, -FIT * apart)
        least = min(float(DisplacementField(f, grid).jacobian_determinant(grid).min()) for f in fields)
        if least > FLATTEST:
            return common, apart
        low, high = 1.25 * low, 1.25 * high


def _linear(kind: str, error: float, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """The matrix logarithm `(4, 4)` of a relative linear motion."""
    found = _linear_draw(kind, error, size, STILL, generator)["generator"][0].double()
    return found if error > 0 else torch.zeros_like(found)


def _linear_draw(
    kind: str, error: float, size: tuple[int, ...], common: CommonSettings, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """What `draw_motion` draws for a linear motion, on a small grid of the same extent."""
    shares = {"rigid": float(kind == "rigid"), "affine": float(kind == "affine")}
    settings = MotionSettings(error=(max(error, 1e-3),) * 2, aligned=0.0, common=common, **shares)  # type: ignore[arg-type]
    return draw_motion(1, (16,) * 3, max(size) * FIELD_SPACING / 16, settings, generator).parameters


@torch.no_grad()
def places(transform: Transform, wanted: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve `transform(x) = wanted` from `start` on, each `(points, 3)`: x, and how far each ends from what was wanted.

    `x <- x - M^-1 (transform(x) - wanted)`, M the matrix of the best affine fit; after half of the steps at half length,
    for maps that fold.
    """
    x = start.float().clone()
    matrix = _matrix(transform, x)
    away = transform(x) - wanted
    best, least = x.clone(), away.norm(dim=-1)
    for step in range(STEPS):
        if float(least.max()) < CLOSE:
            break
        x = x - (away @ matrix) * (1.0 if step < STEPS // 2 else 0.5)
        away = transform(x) - wanted
        length = away.norm(dim=-1)
        better = length < least
        best[better], least[better] = x[better], length[better]
    return best, least


def _matrix(transform: Transform, points: torch.Tensor) -> torch.Tensor:
    """The transposed inverse `(3, 3)` of the matrix of the best affine fit over some points."""
    few = points[:: max(1, len(points) // SEEN_SAMPLES)].double()
    there = transform(few.float()).double()
    fit = torch.linalg.lstsq(few - few.mean(dim=0), there - there.mean(dim=0)).solution
    inverse: torch.Tensor = torch.linalg.inv(fit)
    return inverse.float()
