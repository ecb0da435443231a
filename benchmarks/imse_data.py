"""Unseen subjects and known misalignments for `benchmarks.imse`."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from benchmarks.data import data_folder
from benchmarks.manifests import Row as ManifestRow
from benchmarks.manifests import test_contrasts
from regsim.errors import InputError
from regsim.images import Grid, Image, read_image
from regsim.misalign.appearance import Chain
from regsim.misalign.pairs import PairSettings
from regsim.misalign.restyled import AcrossMaker
from regsim.misalign.sources import Subject, make_subject
from regsim.prepare import coarser, foreground, rescaled
from regsim.transforms import ControlGrid, Transform, read_transform, warp

REFERENCE = "t1"
OTHERS = {2: ("t2", "flair", "pd", "average-t2", "average-pd"), 3: ("t2", "flair", "average-t2", "average-pd")}
PHANTOM_ALIGNMENT = "phantom_t2_onto_ct_mi_rigid_itk.txt"
SEEN_SHARE = {"half": 0.5, "slab": 0.2}
AVERAGE, SIMULATED = "avg152", "brainweb"
SIZES = {2: 128, 3: 64}
SPACINGS = {2: 1.5, 3: 2.0}
BIAS = {"kind": "bias_field", "probability": 1.0, "strength": (1.2, 1.2)}
HARD = {
    "bias": BIAS,
    "noise": {"kind": "noise", "probability": 1.0, "sigma": (0.1, 0.1)},
    "lesions": {"kind": "chain", "changes": [{"kind": "occlusion", "probability": 1.0, "size": (0.1, 0.2)}] * 4},
    "faint": {
        "kind": "chain",
        "changes": [BIAS, {"kind": "noise", "probability": 1.0, "sigma": (0.25, 0.25)}],
    },
}


def place() -> Path:
    """Where the sets lie.

    Raises:
        InputError: nowhere.
    """
    found = data_folder()
    if found is None:
        raise InputError("the real sets are not here: set REGSIM_DATA to the folder that holds them")
    return found


@cache
def unseen(spacing: float) -> tuple[Subject, ...]:
    """The subjects of `benchmarks.manifests.test_contrasts`, brought to one spacing."""
    groups: dict[str, list[ManifestRow]] = {}
    for row in test_contrasts(place()):
        groups.setdefault(row[0], []).append(row)
    subjects = []
    for name, rows in groups.items():
        images = [replace(read_image(row[2]), name=row[1]) for row in rows]
        subjects.append(make_subject(name, images, None, spacing))
    folder = place() / "slices_2d" / "itk"
    names = {REFERENCE: "brain_t1_slice_border20.png", "pd": "brain_proton_density_slice_border20.png"}
    pictures = [
        replace(read_image(folder / name, picture_spacing=1.0), name=contrast) for contrast, name in names.items()
    ]
    return (*subjects, make_subject(SIMULATED, pictures, None, spacing))


def contrast_of(other: str) -> str:
    """The contrast of an entry of `OTHERS`.

    >>> contrast_of("average-t2")
    't2'
    """
    return other.removeprefix("average-")


def with_contrast(spacing: float, other: str) -> list[Subject]:
    """The unseen subjects that have T1 and this contrast: people; "average-t2": the average of 152 brains, which is smooth.

    "pd": one simulated slice (BrainWeb); no person's PD is at hand.
    """
    average, contrast = other.startswith("average-"), contrast_of(other)
    return [
        subject
        for subject in unseen(spacing)
        if {REFERENCE, contrast} <= set(subject.images) and (subject.name == AVERAGE) == average
    ]


def across(dims: int, other: str, largest: float = 15.0, itself: bool = False) -> AcrossMaker:
    """Pairs of T1 and another contrast of unseen subjects; mean errors uniform from 0 to `largest` voxels, nothing hidden.

    `itself`: of the same subjects T1 against T1.
    """
    spacing = SPACINGS[dims]
    motion = {
        "error": (0.0, largest * spacing),
        "aligned": 0.0,
        "rigid": 0.6,
        "affine": 0.1,
        "elastic": 0.3,
        "elastic_error": 6.0 * spacing,
        "smoothness": (8.0, 24.0),
    }
    settings = PairSettings.checked(
        {"dims": dims, "size": SIZES[dims], "spacing": spacing, "motion": motion, "window": {"disc": 0.0, "box": 0.0}}
    )
    return AcrossMaker(with_contrast(spacing, other), settings, REFERENCE, REFERENCE if itself else contrast_of(other))


def volumes(subject: Subject, spacing: float, *contrasts: str) -> list[Image]:
    """A subject's volumes in [0, 1] on a grid of their own, in mm."""
    grid = Grid.of(tuple(subject.shape), spacing)
    return [Image(subject.images[name][None], grid, name=f"{subject.name} {name}") for name in contrasts]


def slices(subject: Subject, spacing: float, *contrasts: str, at: float = 0.5) -> list[Image]:
    """A plane across the axis with the largest faces, at a share of the anatomy's extent."""
    axis = min(subject.axes, key=lambda each: subject.shape[each])
    inside = subject.seen.any(dim=tuple(other for other in range(3) if other != axis)).nonzero().flatten()
    number = int(inside[int(at * (len(inside) - 1))])
    planes = [subject.images[name].select(axis, number) for name in contrasts]
    grid = Grid.of(tuple(planes[0].shape), spacing)
    names = [f"{subject.name} {name}" for name in contrasts]
    return [Image(plane[None].clone(), grid, name=name) for plane, name in zip(planes, names, strict=True)]


def random_bend(grid: Grid, seed: int, spacing: float, error: float) -> ControlGrid:
    """Control points `spacing` mm apart, moved at random; mean displacement `error` mm over the grid."""
    bend = ControlGrid.with_spacing(grid, spacing)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        bend.coefficients.copy_(torch.randn(bend.coefficients.shape, generator=generator))
        points = grid.points().reshape(-1, grid.ndim)[::7]
        size = float((bend(points) - points).norm(dim=-1).mean())
        bend.coefficients.mul_(error / size)
    return bend


@cache
def phantom(spacing: float) -> list[Image]:
    """The meat phantom in CT and T2, in [0, 1]; the T2 carried onto the CT by the set's own alignment (found by mi, rigid)."""
    folder = place() / "ct_mr"
    ct, t2 = (read_image(folder / f"phantom_{each}.nii.gz") for each in ("ct", "t2"))
    ct = coarser(ct, spacing)
    carried = warp(rescaled(coarser(t2, spacing)), read_transform(folder / PHANTOM_ALIGNMENT, 3), ct.grid)
    return [rescaled(ct), Image(carried.data, ct.grid, name="phantom t2")]


@dataclass(frozen=True)
class KnownCase:
    """A fixed image, a moving one, and the transform from fixed to moving points that aligns them."""

    fixed: Image
    moving: Image
    known: Transform
    points: torch.Tensor


def moved_away(fixed: Image, aligned: Image, known: Transform, margin: int = 0, condition: str = "easy") -> KnownCase:
    """The aligned image carried away by the inverse of a known transform; a hard condition changes it first.

    Conditions: "bias" (strong field), "noise" (sigma .1), "faint" (that field and noise of .25), "lesions" (four patches of up
    to two fifths of a side, each of one value), "half", "slab" (half, a fifth of the moving image's field of view is left).
    """
    changed = aligned
    if condition in HARD:
        chain = Chain.checked({"changes": [HARD[condition]]})
        changed = aligned.with_data(chain(aligned.batch, torch.Generator().manual_seed(7))[0])
    target = aligned.grid.padded(margin) if margin else aligned.grid
    moved = warp(changed, known.inverse(target), target)
    moving = Image(moved.data, target, name=aligned.name)
    points = fixed.grid.points()[foreground(fixed)][::11]
    if condition in SEEN_SHARE:
        moving = cut_off(moving, SEEN_SHARE[condition])
        with torch.no_grad():
            index = moving.grid.physical_to_index(known(points).double())
        kept = (index[..., -1] >= 0) & (index[..., -1] <= moving.grid.shape[0] - 1)
        points = points[kept] if int(kept.sum()) > 100 else points
    return KnownCase(rescaled(fixed), rescaled(moving), known, points)


def cut_off(image: Image, share: float) -> Image:
    """A share of the anatomy's extent along the first array axis: the first half of it, or a slab around the middle."""
    inside = (image.data[0] > 0.02).flatten(1).any(dim=1).nonzero().flatten()
    first, last = int(inside.min()), int(inside.max())
    size = int((last - first) * share)
    if share < SEEN_SHARE["half"]:
        first = (first + last - size) // 2
    index = torch.zeros(image.ndim, dtype=torch.float64)
    index[-1] = first
    grid = replace(
        image.grid,
        size=(*image.grid.size[:-1], size),
        origin=tuple(image.grid.index_to_physical(index).tolist()),
    )
    return Image(image.data[:, first : first + size].clone(), grid, name=image.name)
