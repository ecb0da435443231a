"""Roughly aligned pairs with a truth that only the benchmark knows: aligned scans, one of them moved by its header alone.

    python -m benchmarks.rough_pairs OUT [--set t1t2|flair|gradient|ship|pictures ...] [--seed 0]
    python -m benchmarks.rough_pairs OUT --set ship --ended MODEL

writes, for each set, `OUT/SET/pairs.csv` (what `regsim train patch-likelihood-multishot --pairs` learns from), the moved scans,
and `OUT/SET/known/NAME.txt`, the transforms that align them. Nothing is resampled: the moving scan's origin and directions
are turned and shifted.

`--ended`: how far the pairs of a written set were from the truth, and how far a model that learnt from them has left them.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.imse_data import place
from regsim.evaluation.accuracy import foreground_points, true_errors
from regsim.images import Grid, Image, read_image, write_image
from regsim.prepare import coarser, rescaled, smoothed
from regsim.transforms import Affine, Rigid, Transform, read_transform, warp, write_transform

COLUMNS = ("fixed", "moving", "name", "subject", "set", "licence")
SHIFT, ANGLE = (1.0, 20.0), 0.2
SMALL_SHIFT, SMALL_ANGLE = (1.0, 10.0), 0.1
LEARNERS = ("msx07", "msl01/ses1", "msl01/ses2", "msl03/ses2", "msl04/ses1")
JUDGES = ("msx19", "br002/0", "br002/1")
FLAIR_LEARNERS = 8
GRADIENT_SIGMA = 1.0
PICTURES, PICTURE_MARGIN, PLACES = "pictures", 24, (0.4, 0.5, 0.6)
REPEATS = {"t1t2": 4, "flair": 2, "gradient": 4, "ship": 1}
PATIENTS, SESSION_SET = "brain_t1t2_mni (open_ms_data)", "brain_t1t2_native (open_ms_data)"


@dataclass(frozen=True)
class Aligned:
    """Two scans of one head and the transform from fixed to moving points that aligns them as they were published."""

    subject: str
    fixed: Path
    moving: Path
    truth: Affine
    data_set: str = ""
    licence: str = ""


def scans(subject: str, first: str, second: str) -> Aligned:
    """Two contrasts of a subject: "msx07", "msl01/ses1" (each on its own grid), "br002/0", "nc01"."""
    root, still = place(), Affine(3)
    if subject.startswith("msx"):
        ways = [root / "brain_t1t2_mni" / f"sub-{subject}_{each}.nii.gz" for each in (first, second)]
        return Aligned(subject, ways[0], ways[1], still, PATIENTS, "CC BY 4.0")
    if subject.startswith("msl"):
        start = root / "brain_t1t2_native" / f"sub-{subject.replace('/', '_')}"
        onto = [_onto_flair(start, each) for each in (first, second)]
        truth = Affine(3).set_homogeneous(onto[1] @ torch.linalg.inv(onto[0]))
        ways = [Path(f"{start}_{each}.nii.gz") for each in (first, second)]
        return Aligned(subject, ways[0], ways[1], truth, SESSION_SET, "CC BY 4.0")
    if subject.startswith("br"):
        visits = sorted((root / "brain_longitudinal").glob("*_t1.nii.gz"))
        one = visits[int(subject.partition("/")[2])]
        ways = [one.with_name(one.name.replace("_t1.", f"_{each}.")) for each in (first, second)]
        return Aligned(subject, ways[0], ways[1], still, "brain_longitudinal", "test only")
    ways = [root / "brain_t1_flair_labels" / f"sub-{subject}_{each}.nii.gz" for each in (first, second)]
    return Aligned(subject, ways[0], ways[1], still, "brain_t1_flair_labels", "test only")


def _onto_flair(start: Path, contrast: str) -> torch.Tensor:
    if contrast == "flair":
        return torch.eye(4, dtype=torch.float64)
    found = read_transform(f"{start}_{contrast}_onto_flair_itk.txt", 3)
    assert isinstance(found, Rigid | Affine)
    return found.homogeneous()


@cache
def flair_people() -> tuple[str, ...]:
    """The older people with T1 and FLAIR, in order; the first eight learn, the others judge."""
    folder = place() / "brain_t1_flair_labels"
    return tuple(path.name.split("_")[0].removeprefix("sub-") for path in sorted(folder.glob("*_t1.nii.gz")))


def misalignment(centre: np.ndarray, seed: int, shift: tuple[float, float], angle: float) -> Rigid:
    """The paper's draw, signs added: each shift uniform in `shift` mm, either way, each angle within `angle` radians."""
    generator = torch.Generator().manual_seed(seed)
    sizes, signs, turns = torch.rand((3, 3), generator=generator, dtype=torch.float64)
    away = Rigid(3, centre)
    with torch.no_grad():
        away.translation.copy_((shift[0] + (shift[1] - shift[0]) * sizes) * torch.where(signs < 0.5, -1.0, 1.0))
        away.rotation.copy_((2 * turns - 1) * angle)
    return away


def moved(image: Image, way: Rigid) -> Image:
    """The image where a rigid transform takes it, by its header alone."""
    with torch.no_grad():
        matrix = way.matrix().numpy()
        origin = way(torch.tensor([image.grid.origin], dtype=torch.float64))[0].tolist()
    direction = matrix @ np.asarray(image.grid.direction)
    grid = replace(image.grid, origin=tuple(origin), direction=tuple(map(tuple, direction.tolist())))
    return Image(image.data, grid, name=image.name)


def gradient_magnitude(image: Image) -> Image:
    """Length of the gradient of the smoothed image, in [0, top]: what outlines are left of a contrast."""
    widths = tuple(GRADIENT_SIGMA * min(image.grid.spacing) / step for step in image.grid.spacing)
    soft = smoothed(image.with_data(image.data.float()), widths).data[0]
    parts = torch.gradient(soft, spacing=tuple(float(step) for step in reversed(image.grid.spacing)))
    return image.with_data(torch.stack(parts).norm(dim=0)[None])


@dataclass(frozen=True)
class Rough:
    """One rough pair: images, and the transform from fixed to moving points that aligns them."""

    name: str
    aligned: Aligned
    fixed: Image
    moving: Image
    known: Affine


def rough(aligned: Aligned, name: str, seed: int, shift: tuple[float, float], angle: float, gradient: bool) -> Rough:
    """Move an aligned pair apart; `gradient`: the fixed image becomes its gradient magnitude (GM(T1) against T2)."""
    fixed, moving = read_image(aligned.fixed), read_image(aligned.moving)
    if gradient:
        fixed = gradient_magnitude(fixed)
    away = misalignment(fixed.grid.centre, seed, shift, angle)
    known = Affine(3).set_homogeneous(away.homogeneous() @ aligned.truth.homogeneous())
    return Rough(name, aligned, fixed, moved(moving, away), known)


def learners(name: str, seed: int) -> Iterator[Rough]:
    """The training pairs of a set."""
    shift, angle = (SMALL_SHIFT, SMALL_ANGLE) if name == "gradient" else (SHIFT, ANGLE)
    for number, (subject, first, second) in enumerate(_learning(name)):
        for repeat in range(REPEATS[name]):
            label = f"{subject.replace('/', '-')}_{first}_{second}_{repeat}"
            own = 1000 * seed + 10 * number + repeat
            yield rough(scans(subject, first, second), label, own, shift, angle, name == "gradient")


def _learning(name: str) -> list[tuple[str, str, str]]:
    if name == "flair":
        return [(subject, "t1", "flair") for subject in flair_people()[:FLAIR_LEARNERS]]
    if name == "ship":
        names = ("t1", "t2", "flair")
        return [(who, one, other) for who in LEARNERS for one in names for other in names if one != other]
    return [(subject, "t1", "t2") for subject in LEARNERS]


def judges(name: str, repeats: int) -> Iterator[Rough]:
    """The test pairs of a set: people that no training pair shows."""
    shift, angle = (SMALL_SHIFT, SMALL_ANGLE) if name == "gradient" else (SHIFT, ANGLE)
    who = flair_people()[FLAIR_LEARNERS:] if name == "flair" else JUDGES
    other = "flair" if name == "flair" else "t2"
    for number, subject in enumerate(who):
        for repeat in range(repeats):
            label, seed = f"{subject.replace('/', '-')}_{repeat}", 500_000 + 100 * number + repeat
            yield rough(scans(subject, "t1", other), label, seed, shift, angle, name == "gradient")


def write_set(name: str, folder: Path, seed: int = 0) -> Path:
    """Write a set's training pairs; the path of the list."""
    own = folder / name
    (own / "known").mkdir(parents=True, exist_ok=True)
    rows = []
    for pair in learners(name, seed):
        fixed, moving = own / f"{pair.name}_fixed.nii.gz", own / f"{pair.name}_moving.nii.gz"
        if name != "gradient":
            fixed = pair.aligned.fixed
        else:
            write_image(pair.fixed, fixed)
        write_image(pair.moving, moving)
        write_transform(pair.known, own / "known" / f"{pair.name}.txt")
        person = pair.aligned.subject.partition("/")[0]
        rows.append((fixed.resolve(), moving.resolve(), pair.name, person, pair.aligned.data_set, pair.aligned.licence))
    path = own / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    return path


def write_pictures(folder: Path, seed: int = 0) -> Path:
    """The pairs of `ship` as pictures of 1 mm: planes of aligned scans, the moving one turned and shifted within its plane."""
    own = folder / PICTURES
    (own / "known").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (subject, first, second) in enumerate(_learning("ship")):
        for place_in, (fixed, moving) in enumerate(planes(scans(subject, first, second))):
            name = f"{subject.replace('/', '-')}_{first}_{second}_{place_in}"
            away = picture_misalignment(fixed.grid.centre, 100_000 * seed + 100 * number + place_in)
            target = moving.grid.padded(PICTURE_MARGIN)
            carried = warp(moving, away.inverse(), target, "cubic")
            paths = [own / f"{name}_{role}.png" for role in ("fixed", "moving")]
            write_image(fixed, paths[0])
            write_image(carried.with_data(carried.data.clamp(0, 1)), paths[1])
            corner = torch.eye(3, dtype=torch.float64)
            corner[:2, 2] = float(PICTURE_MARGIN)  # the larger picture's first pixel is its origin
            known = Affine(2).set_homogeneous(corner @ away.homogeneous())
            write_transform(known, own / "known" / f"{name}.txt")
            aligned = scans(subject, first, second)
            person = subject.partition("/")[0]
            rows.append((paths[0].resolve(), paths[1].resolve(), name, person, aligned.data_set, aligned.licence))
    path = own / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    return path


def planes(aligned: Aligned) -> Iterator[tuple[Image, Image]]:
    """Planes of 1 mm through the middle of the head, in pixels and in [0, 1]: across the thickest axis, or across all alike."""
    fixed, moving = (rescaled(read_image(path)) for path in (aligned.fixed, aligned.moving))
    carried = warp(moving, aligned.truth, fixed.grid, "cubic")
    steps = list(reversed(fixed.grid.spacing))
    axes = range(3) if max(steps) < 1.5 * min(steps) else [int(np.argmax(steps))]
    for axis in axes:
        sides = [step for other, step in enumerate(steps) if other != axis]
        for share in PLACES:
            cuts = [image.data[0].select(axis, int(share * image.data.shape[1 + axis])) for image in (fixed, carried)]
            flat = Grid.of(tuple(cuts[0].shape), (sides[1], sides[0]), "px")
            pair = [coarser(Image(cut[None].contiguous(), flat), 1.0) for cut in cuts]
            grid = Grid.of(tuple(round(n) for n in reversed(flat.extent.tolist())), 1.0, "px")
            still = [warp(each, None, grid) for each in pair]
            yield (Image(still[0].data.clamp(0, 1), grid), Image(still[1].data.clamp(0, 1), grid))


def picture_misalignment(centre: np.ndarray, seed: int) -> Rigid:
    """As `misalignment`, within the plane."""
    generator = torch.Generator().manual_seed(seed)
    sizes, signs, turns = torch.rand((3, 2), generator=generator, dtype=torch.float64)
    away = Rigid(2, centre)
    with torch.no_grad():
        away.translation.copy_((SHIFT[0] + (SHIFT[1] - SHIFT[0]) * sizes) * torch.where(signs < 0.5, -1.0, 1.0))
        away.rotation.copy_((2 * turns[:1] - 1) * ANGLE)
    return away


def known_of(folder: Path, name: str) -> Transform:
    """The transform that aligns a written pair."""
    return read_transform(folder / "known" / f"{name}.txt")


def ended(folder: Path, model: Path) -> list[tuple[float, float]]:
    """For each pair of a written set that the model's training used: the true mean error over the head before and after."""
    found = []
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            path = model / "transforms" / f"{row['name']}.txt"
            if path.exists():
                points = foreground_points(read_image(row["fixed"]))[::5]
                known, way = known_of(folder, row["name"]), read_transform(path)
                still = Rigid(known.ndim)
                found.append(tuple(float(true_errors(each, known, points).mean()) for each in (still, way)))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", action="append", choices=(*REPEATS, PICTURES), dest="sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ended", type=Path, metavar="MODEL", help="a model's folder, as its training left it")
    asked = parser.parse_args()
    if asked.ended is not None:
        for name in asked.sets or (*REPEATS, PICTURES):
            before, after = np.array(ended(asked.folder / name, asked.ended)).T
            print(
                f"{name}: {len(after)} pairs, median {np.median(before):.1f} -> {np.median(after):.2f}, most {after.max():.2f}"
            )
        return
    for name in asked.sets or (*REPEATS, PICTURES):
        write = write_pictures if name == PICTURES else partial(write_set, name)
        print(write(asked.folder, asked.seed))


if __name__ == "__main__":
    main()
