"""Subjects in two contrasts that no training saw, for `benchmarks.contrasts`.

| set | subjects | dims |
| --- | --- | --- |
| t1_flair | 16 older adults (2 mm), msx19 (multiple sclerosis) | 3, 2 |
| t1_t2 | msx19, two visits of br002 (tumour), msl04 (multiple sclerosis, slices of 3 mm), avg152 (an average) | 3, 2 |
| ct_mr | a phantom of meat and bone; CT between -200 and 300 HU | 3 |
| tumour | a slice of hg0001 to hg0005 (tumours), T1 with T2 and T1 with FLAIR | 2 |

Volumes are compared at 2 mm, planes at 1 mm; planes of volumes of 2 mm stay at 2 mm. The FLAIR images of the 16 older adults
were scanned in thick axial slices, and show them as steps: their planes are axial, and their volumes are hard on any metric.
They, and one T2, lie off their T1 by up to 1.3 mm; `BEYOND` mends this. CT and MR of the phantom were fitted rigidly by mutual
information, though the meat has bent by some mm: errors of 1 and 2 mm mean little there, and the set is not pooled with others.
"""

import csv
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from scipy import ndimage

from benchmarks.manifests import COLUMNS, Row, test_multi
from regsim.errors import InputError
from regsim.images import Grid, Image, read_image
from regsim.misalign.sources import SourceSettings, Subject, make_subject, read_subjects
from regsim.prepare import coarser
from regsim.transforms import Rigid, read_transform, warp

SETS = {3: ("t1_flair", "t1_t2", "ct_mr"), 2: ("t1_flair", "t1_t2", "tumour")}
PATHOLOGY = ("ms", "br", "hg")
UNSURE_SETS = ("ct_mr",)
COARSE, FINE = 2.0, 1.0
SIDE_STEP, LEAST_SIDE, MOST_SIDE = 16, 96, {3: 96, 2: 256}
TISSUE_HU = (-200.0, 300.0)
UNKNOWN_RIM = 5
THICK_AXIALLY = "nc"
# How far a contrast lies beyond its subject's T1 as the files come, z, y, x in mm: means of `benchmarks.contrast_optimum` over
# mind, nmi and lncc, which agree within some tenths of a mm. Without it, "aligned" would mean errors of up to 1.3 mm.
BEYOND = {
    "nc01/flair": (0.54, -0.16, 0.05), "nc02/flair": (0.76, -0.24, 0.07), "nc04/flair": (0.89, -0.15, 0.03),
    "nc05/flair": (-0.11, -0.03, -0.03), "nc06/flair": (-0.07, -0.04, 0.04), "nc08/flair": (-0.42, -0.13, 0.0),
    "nc09/flair": (0.98, -0.17, 0.05), "nc10/flair": (0.99, -0.23, 0.05), "nc12/flair": (1.03, -0.36, -0.06),
    "nc13/flair": (0.13, -0.06, 0.09), "nc14/flair": (0.45, -0.3, 0.05), "nc16/flair": (0.72, -0.44, 0.09),
    "nc17/flair": (0.97, -0.85, -0.02), "nc19/flair": (0.48, 0.0, 0.06), "nc21/flair": (1.13, -0.25, 0.08),
    "nc22/flair": (1.21, 0.05, 0.07), "msx19/t2": (0.44, -0.06, 0.03),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One subject in two contrasts, ready for pairs.

    Args:
        dims, set: 2 (planes) or 3 (volumes), and one of `SETS`.
        subject: exactly two images.
        spacing: of its voxels, mm.
        size: side of the crops, voxels: the whole head where that is no more than `MOST_SIDE`.
    """

    dims: int
    set: str
    subject: Subject
    spacing: float
    size: int


@dataclass(frozen=True)
class Source:
    """Where a case comes from; nothing is read before `case` is called.

    Args:
        dims, set: as in `Case`.
        name: the subject's; what follows a slash is a visit or a choice of contrasts of one person.
        contrasts: the two that are compared.
        rows: of a manifest; the first contrast has the grid.
        spacing: to read it at, mm.
    """

    dims: int
    set: str
    name: str
    contrasts: tuple[str, str]
    rows: tuple[Row, ...]
    spacing: float

    def case(self) -> Case:
        """Read it."""
        if self.set == "ct_mr":
            subject = _phantom(self)
        elif self.dims == 3 and any(transform for _, _, _, transform, _, _ in self.rows):
            subject = _thick(self)
        else:
            subject = _plain(self)
        thick = self.name.startswith(THICK_AXIALLY)
        images = {name: subject.images[name] for name in self.contrasts}
        chosen = replace(subject, images=images, axes=(0,) if thick else subject.axes)
        beyond = BEYOND.get(f"{self.name}/{self.contrasts[1]}")
        chosen = chosen if beyond is None else brought_together(chosen, beyond)
        longest = SIDE_STEP * math.ceil(max(chosen.shape) / SIDE_STEP)
        size = min(max(longest, LEAST_SIDE), MOST_SIDE[self.dims])
        return Case(self.dims, self.set, chosen, self.spacing, size)


def sources(place: Path, dims: int, name: str) -> list[Source]:
    """All of one set.

    Args:
        place: the folder that holds the sets (REGSIM_DATA).
        dims: 2 or 3.
        name: one of `SETS[dims]`.

    Raises:
        InputError: no such set.
    """
    if name not in SETS[dims]:
        raise InputError(f"set '{name}' is not one of the {dims}-D sets: {', '.join(SETS[dims])}")
    found = list({"t1_flair": _flair, "t1_t2": _t2, "ct_mr": _ct, "tumour": _tumours}[name](place))
    spacings = [COARSE if dims == 3 else finest for *_, finest in found]
    parts = zip(found, spacings, strict=True)
    return [Source(dims, name, subject, pair, tuple(rows), spacing) for (subject, pair, rows, _), spacing in parts]


def has_pathology(subject: str) -> bool:
    """Whether a subject has lesions or a tumour.

    >>> has_pathology("br002/ses0"), has_pathology("nc01")
    (True, False)
    """
    return subject.startswith(PATHOLOGY)


def brought_together(subject: Subject, beyond: tuple[float, float, float]) -> Subject:
    """Both contrasts read half of the way towards each other, so that both are interpolated alike.

    Args:
        subject: with two images, nothing beyond their borders.
        beyond: from a point of the first to its place in the second, z, y, x, physical units.
    """
    grid = Grid.of(tuple(subject.shape), subject.steps[::-1])

    def moved(volume: torch.Tensor, share: float) -> torch.Tensor:
        shift = Rigid(3)
        with torch.no_grad():
            shift.translation.copy_(share * torch.tensor(beyond[::-1], dtype=torch.float64))
        return warp(Image(volume[None], grid), shift).data[0]

    parts = zip(subject.images.items(), (-0.5, 0.5), strict=True)
    images = {name: moved(volume, share) for (name, volume), share in parts}
    return replace(subject, images=images, seen=moved(subject.seen.float(), -0.5) > 0.5)


Found = tuple[str, tuple[str, str], Sequence[Row], float]


def _flair(place: Path) -> Iterator[Found]:
    stem = place / "brain_t1t2_mni" / "sub-msx19"
    yield "msx19", ("t1", "flair"), _rows("msx19", stem, ("t1", "flair")), FINE
    rows = test_multi(place)
    for name in dict.fromkeys(row[0].removeprefix("sub-") for row in rows):
        own = [(name, *row[1:]) for row in rows if row[0].removeprefix("sub-") == name]
        yield name, ("t1", "flair"), own, COARSE


def _t2(place: Path) -> Iterator[Found]:
    pair = ("t1", "t2")
    yield "msx19", pair, _rows("msx19", place / "brain_t1t2_mni" / "sub-msx19", pair), FINE
    for visit in ("ses0", "ses1"):
        name = f"br002/{visit}"
        yield name, pair, _rows(name, place / "brain_longitudinal" / f"sub-br002_{visit}", pair), FINE
    stem = place / "brain_t1t2_native" / "sub-msl04_ses1"
    native = [(c, "" if c == "flair" else f"{stem}_{c}_onto_flair_itk.txt") for c in ("flair", *pair)]
    yield "msl04", pair, [("msl04", c, Path(f"{stem}_{c}.nii.gz"), t, "", "") for c, t in native], FINE
    yield "avg152", pair, _rows("avg152", place / "brain_templates" / "avg152", pair), COARSE


def _ct(place: Path) -> Iterator[Found]:
    folder = place / "ct_mr"
    transform = str(folder / "phantom_t2_onto_ct_mi_rigid_itk.txt")
    ct = ("phantom", "ct", folder / "phantom_ct.nii.gz", "", "", "")
    yield "phantom", ("ct", "t2"), [ct, ("phantom", "t2", folder / "phantom_t2.nii.gz", transform, "", "")], COARSE


def _tumours(place: Path) -> Iterator[Found]:
    folder = place / "slices_2d" / "tumor_t1_t2"
    for other in ("t2", "flair"):
        for path in sorted(folder.glob("*_t1.png")):
            person = path.name.removesuffix("_t1.png")
            name = f"{person}/{other}"
            yield name, ("t1", other), _rows(name, folder / person, ("t1", other), ".png"), FINE


def _rows(name: str, stem: Path, contrasts: Sequence[str], end: str = ".nii.gz") -> list[Row]:
    return [(name, contrast, Path(f"{stem}_{contrast}{end}"), "", "", "") for contrast in contrasts]


def _plain(source: Source) -> Subject:
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "subject.csv"
        with manifest.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            writer.writerows(source.rows)
        return read_subjects(manifest, SourceSettings(spacing=source.spacing))[0]


def _thick(source: Source) -> Subject:
    """Thick slices, each contrast on its own grid: brought onto the first one's extent at equal steps."""
    (_, name, path, *_), *others = source.rows
    first = read_image(path)
    grid = first.grid.with_spacing((source.spacing,) * 3)
    images = [_named(warp(coarser(first, source.spacing), None, grid), name)]
    for _, name, path, transform, _, _ in others:
        moving = coarser(read_image(path), source.spacing)
        images.append(_named(warp(moving, read_transform(transform, 3), grid), name))
    return make_subject(source.name, images, None, source.spacing)


def _phantom(source: Source) -> Subject:
    """CT within a window of soft tissue, T2 carried onto it; anatomy only where both have data."""
    ct, t2 = (read_image(row[2]) for row in source.rows)
    carried = warp(t2, read_transform(source.rows[1][3], 3), ct.grid)
    assert carried.mask is not None
    tissue = ct.with_data(ct.data.clamp(*TISSUE_HU))
    subject = make_subject(source.name, [_named(tissue, "ct"), _named(carried, "t2")], None, source.spacing)
    held = Image(carried.mask, ct.grid)
    known = warp(coarser(held, source.spacing), None, ct.grid.with_spacing((source.spacing,) * 3)).data[0] > 0.5
    inner = ndimage.binary_erosion(known.numpy(), iterations=UNKNOWN_RIM)
    return replace(subject, seen=subject.seen & torch.from_numpy(inner))


def _named(image: Image, name: str) -> Image:
    return replace(image, mask=None, name=name)
