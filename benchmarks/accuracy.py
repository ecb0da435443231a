"""Accuracy on real images with known answers: `python -m benchmarks.accuracy [SET ...] [--quick] [-o DIR]`.

Sets: slices (2-D, known shift, rotation, scale), rigid (T1 against T2 and FLAIR, random misalignments), native (clinical
scans, publisher's transform), deformable and
diffeomorphic (between subjects, labels judge). ANTs runs beside us where antspyx is installed.
"""

import argparse
import csv
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import data_folder
from regsim.evaluation.accuracy import dice, foreground_points, true_errors
from regsim.images import Image, read_image
from regsim.registration import register
from regsim.registration.schedule import Goal
from regsim.transforms import Rigid, Similarity, read_transform, warp

Row = dict[str, str | float]
SMALLEST_LABEL = 100


def known_slice(name: str) -> Similarity:
    """The transform that made each slice: 10 degrees about (110.5, 128.5), which is half the size in pixels.

    Convention:
        The file r10_x13_y17 is shifted by (13, 16), not (13, 17): SimpleITK's own registration gives (13.00, 16.00) too. The
        file with scale 1.2 was made the other way round, so its transform is the inverse.
    """
    made = Similarity(2, (110.5, 128.5))
    with torch.no_grad():
        if name != "shifted13x17y":
            made.rotation.fill_(math.radians(10))
        if name != "rotated10":
            made.translation.copy_(torch.tensor([13.0, 16.0 if name == "r10_x13_y17" else 17.0]))
        if name.endswith("s12"):
            made.log_scale.fill_(math.log(1.2))
            made.set_homogeneous(torch.linalg.inv(made.homogeneous()))
    return made


def slices(data: Path, quick: bool) -> Iterator[Row]:
    """The BrainWeb slice: known shift, rotation and scale, within and across contrasts."""
    folder = data / "slices_2d" / "itk"
    stem = "brain_proton_density_slice"
    head = read_image(folder / f"{stem}_border20_mask.png")
    points = head.grid.points()[head.data[0] > 0][::5]
    for contrast in ("proton_density", "t1"):
        path = folder / f"brain_{contrast}_slice_border20.png"
        plain, masked = read_image(path), read_image(path, mask=folder / f"{stem}_border20_mask.png")
        for name in ("shifted13x17y", "rotated10", "r10_x13_y17", "r10_x13_y17_s12"):
            moving = read_image(folder / f"{stem}_{name}.png")
            known = known_slice(name)
            # the turned picture's corners are filled with grey 100, which no transform of the head explains: mask the head
            fixed = masked if name == "rotated10" else plain
            goal: Goal = "similarity" if name.endswith("s12") else "rigid"
            for metric in ("nmi", "mind") if contrast == "t1" else ("nmi", "mind", "ncc", "lncc"):
                found = register(fixed, moving, metric, goal)
                turns = [_degrees(transform.matrix()) for transform in (found.transform, known)]
                yield {
                    "set": "slices",
                    "case": f"{name} <- {contrast}",
                    "metric": f"{metric} {'within' if contrast != 't1' else 'across'}",
                    "before": float(true_errors(Rigid(2), known, points).mean()),
                    "after": float(true_errors(found.transform, known, points).mean()),
                    "degrees_error": abs(turns[0] - turns[1]),
                    "scale_ratio": float(torch.linalg.det(found.transform.matrix() @ known.matrix().inverse().detach()))
                    ** 0.5,
                    "seconds": found.seconds,
                }


def _degrees(matrix: torch.Tensor) -> float:
    return math.degrees(math.atan2(*matrix.detach()[:, 0].flip(0).tolist()))


def random_rigid(centre: np.ndarray, seed: int, shift: float = 15.0, degrees: float = 15.0) -> Rigid:
    """A rotation about a random axis and a shift in a random direction, both up to the given size."""
    generator = torch.Generator().manual_seed(seed)
    axis, way = torch.randn((2, 3), generator=generator, dtype=torch.float64)
    sizes = torch.rand(2, generator=generator, dtype=torch.float64)
    drawn = Rigid(3, centre)
    with torch.no_grad():
        drawn.rotation.copy_(axis / axis.norm() * math.radians(degrees) * sizes[0])
        drawn.translation.copy_(way / way.norm() * shift * sizes[1])
    return drawn


def rigid(data: Path, quick: bool) -> Iterator[Row]:
    """40 random rigid misalignments up to 15 mm and 15 degrees: T2 or FLAIR onto T1."""
    for number in range(8 if quick else 40):
        subject = ("msx07", "msx19")[number % 2]
        contrast = ("t2", "flair")[number // 2 % 2]
        folder = data / "brain_t1t2_mni"
        fixed = read_image(folder / f"sub-{subject}_t1.nii.gz")
        aligned = read_image(folder / f"sub-{subject}_{contrast}.nii.gz")
        known = random_rigid(fixed.grid.centre, number)
        moved = warp(aligned, known.inverse(), aligned.grid.padded(18), "cubic")
        moving = Image(moved.data, moved.grid, name=f"{contrast} moved")
        points = fixed.grid.points()[fixed.data[0] > 0][::20]
        for metric in ("nmi", "mind"):
            found = register(fixed, moving, metric, "rigid")
            yield {
                "set": "rigid",
                "case": f"{subject} {contrast} {number}",
                "metric": metric,
                "before": float(true_errors(Rigid(3), known, points).mean()),
                "after": float(true_errors(found.transform, known, points).mean()),
                "seconds": found.seconds,
            }


def native(data: Path, quick: bool) -> Iterator[Row]:
    """Clinical scans as they came: T1 and T2 onto FLAIR from the headers alone, against the publisher's transform."""
    folder = data / "brain_t1t2_native"
    for flair in sorted(folder.glob("*_flair.nii.gz"))[: 1 if quick else None]:
        fixed = read_image(flair)
        points = foreground_points(fixed)
        for contrast in ("t1", "t2"):
            moving = read_image(str(flair).replace("_flair", f"_{contrast}"))
            truth = next(folder.glob(flair.name.replace("_flair.nii.gz", f"*{contrast}_onto_flair*")))
            known = read_transform(truth, 3)
            for metric in ("nmi", "mind"):
                for goal in ("rigid", "affine"):
                    found = register(fixed, moving, metric, goal)
                    yield {
                        "set": "native",
                        "case": f"{flair.name[:-13]} {contrast}",
                        "metric": f"{metric} {goal}",
                        "before": float(true_errors(Rigid(3), known, points).mean()),
                        "after": float(true_errors(found.transform, known, points).median()),
                        "seconds": found.seconds,
                    }


def deformable(data: Path, quick: bool, goal: Goal = "deformable") -> Iterator[Row]:
    """Between subjects: mean Dice over the labels of at least 100 voxels, folding over the whole grid."""
    folder = data / "brain_t1_flair_labels"
    pairs = (("01", "02"), ("04", "05"), ("06", "08"), ("12", "13"))
    for target, source in pairs[: 1 if quick else None]:
        fixed = read_image(folder / f"sub-nc{target}_t1.nii.gz")
        labels = [read_image(folder / f"sub-nc{n}_labels.nii.gz", labels=True) for n in (target, source)]
        for contrast in ("t1", "flair"):
            moving = read_image(folder / f"sub-nc{source}_{contrast}.nii.gz")
            runs: dict[str, Callable[[], tuple[Image, float]]] = {
                f"lncc:window=7 {goal}": partial(_ours, fixed, moving, labels[1], "lncc:window=7", goal),
                f"default {goal}": partial(_ours, fixed, moving, labels[1], None, goal),
            }
            if importlib.util.find_spec("ants") is not None and goal == "deformable":
                runs["ANTs SyN"] = partial(_ants, folder, target, source, contrast)
            for name, run in runs.items():
                began = time.perf_counter()
                carried, folded = run()
                yield {
                    "set": goal,
                    "case": f"nc{target}<-nc{source} {contrast}",
                    "metric": f"{name} {contrast}",
                    "dice": float(np.mean(list(dice(labels[0], carried, SMALLEST_LABEL).values()))),
                    "folded_percent": 100 * folded,
                    "seconds": time.perf_counter() - began,
                }


def diffeomorphic(data: Path, quick: bool) -> Iterator[Row]:
    """The same with a velocity field."""
    yield from deformable(data, quick, "diffeomorphic")


def _ours(fixed: Image, moving: Image, labels: Image, metric: str | None, goal: Goal) -> tuple[Image, float]:
    found = register(fixed, moving, metric, goal)
    with torch.no_grad():
        folded = float((found.transform.jacobian_determinant(fixed.grid) <= 0).float().mean())
    return found.warped(labels), folded


def _ants(folder: Path, target: str, source: str, contrast: str) -> tuple[Image, float]:
    import ants

    fixed = ants.image_read(str(folder / f"sub-nc{target}_t1.nii.gz"))
    moving = ants.image_read(str(folder / f"sub-nc{source}_{contrast}.nii.gz"))
    stored = ants.image_read(str(folder / f"sub-nc{source}_labels.nii.gz"))
    found = ants.registration(fixed, moving, "SyN")
    carried = ants.apply_transforms(fixed, stored, found["fwdtransforms"], interpolator="nearestNeighbor")
    jacobian = ants.create_jacobian_determinant_image(fixed, found["fwdtransforms"][0])
    target_image = read_image(folder / f"sub-nc{target}_labels.nii.gz", labels=True)
    data = torch.from_numpy(carried.numpy().astype(np.int64).transpose(2, 1, 0).copy())[None]
    return Image(data, target_image.grid), float((jacobian.numpy() <= 0).mean())


SETS = {"slices": slices, "rigid": rigid, "native": native, "deformable": deformable, "diffeomorphic": diffeomorphic}


def summary(rows: list[Row]) -> Iterator[str]:
    """Median, share under 1.5 and mean, per set and metric."""
    for key in dict.fromkeys((row["set"], row["metric"]) for row in rows):
        own = [row for row in rows if (row["set"], row["metric"]) == key]
        for column in ("after", "dice", "folded_percent", "degrees_error", "scale_ratio", "seconds"):
            values = np.array([row[column] for row in own if column in row])
            if values.size:
                under = f", {100 * float((values < 1.5).mean()):.0f} % under 1.5" if column == "after" else ""
                yield (
                    f"{key[0]:11s} {key[1]:28s} {column:15s} n={values.size:3d} median {np.median(values):.4f} "
                    f"mean {values.mean():.4f} max {values.max():.4f}{under}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[[], *SETS], default=[])
    parser.add_argument("--quick", action="store_true", help="a few cases of each set")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench"))
    asked = parser.parse_args()
    data = data_folder()
    if data is None:
        print("no test images: set REGSIM_DATA to the folder that holds the sets")
        return
    rows: list[Row] = []
    for name in asked.sets or SETS:
        for row in SETS[name](data, asked.quick):
            rows.append(row)
            print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
    asked.output.mkdir(parents=True, exist_ok=True)
    with (asked.output / f"accuracy_{'_'.join(asked.sets) or 'all'}.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
