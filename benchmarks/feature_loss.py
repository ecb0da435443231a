"""Features as the loss of a registration, beside classical metrics.

    python -m benchmarks.feature_loss between rigid noise time -o DIR -m mind -m deepsim-brain-3d [-m LABEL=METRIC] [--quick]
    python -m benchmarks.feature_loss tables -o DIR

- between: FLAIR onto T1 of other people, the eight pairs of `benchmarks.registration`; Dice and folding.
- rigid: T2 and FLAIR onto T1 of a patient that no training saw (msx19, 1 mm), 20 starts; true error.
- noise: T1 onto T1 of other people, noise of sigma .05 to .2 on both; Dice against the clean labels, and how rough the field is:
  the standard deviation of the logarithm of its Jacobian determinant. Here NAME*FACTOR multiplies the penalties' weights.
- time: one evaluation with gradient of the driver's finest deformable level (2 mm), median of 15, and its ratio to MIND's.

"mind" is the driver's own default (nmi for linear stages, MIND at two scales for the deformation); other metrics drive all
stages. Rows are appended as they come, and what is there is not run again. `tables` prints medians, and the mean difference of
Dice from MIND's with its 90 % interval and the test of equivalence (TOST, margin .005).
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Screen

from benchmarks.accuracy import random_rigid
from benchmarks.contrasts import labelled
from benchmarks.data import data_folder
from benchmarks.deformable_sets import PAIRS
from benchmarks.linear_sets import brains
from benchmarks.rows import Row, Table, read_rows, write_machine
from benchmarks.sets import errors, ours, overlap
from regsim.errors import InputError
from regsim.evaluation.accuracy import true_errors
from regsim.evaluation.statistics import equivalence
from regsim.images import Image, read_image
from regsim.registration.driver import finest_level
from regsim.registration.schedule import Schedule, schedule_for
from regsim.transforms import Rigid, warp

KEY = ("set", "case", "metric")
COLUMNS = (*KEY, "before", "after", "worst", "dice", "folded_percent", "roughness", "seconds", "memory_mib", "ratio")
DEFAULT, MARGIN = "mind", 0.005
SIGMAS = (0.05, 0.1, 0.2)
REPEATS = 15
Cases = Mapping[str, Callable[[], Row]]


def driving(metric: str) -> str | None:
    """What the driver is asked for: its default plan for "mind"."""
    return None if metric == DEFAULT else metric


def smoother(metric: str, fixed: Image) -> tuple[str | None, Schedule | None]:
    """The driver's metric, and its plan where `NAME*FACTOR` asks for penalties of so many times their weight."""
    name, star, factor = metric.partition("*")
    if not star:
        return driving(metric), None
    plan = schedule_for("deformable", fixed.grid, driving(name))
    stages = tuple(
        stage.model_copy(
            update={"penalties": {kind: float(factor) * weight for kind, weight in stage.penalties.items()}}
        )
        for stage in plan.stages
    )
    return driving(name), plan.model_copy(update={"stages": stages})


def people(place: Path, pair: tuple[str, str], contrast: str) -> tuple[Image, Image, list[Image]]:
    """T1 of one person, an image of another, and both label maps."""
    folder = place / "brain_t1_flair_labels"
    target, source = (folder / f"sub-nc{name}" for name in pair)
    labels = [read_image(Path(f"{stem}_labels.nii.gz"), labels=True) for stem in (target, source)]
    return read_image(Path(f"{target}_t1.nii.gz")), read_image(Path(f"{source}_{contrast}.nii.gz")), labels


def between(place: Path, metric: str, quick: bool) -> Cases:
    """FLAIR onto T1 of another person."""

    def work(pair: tuple[str, str]) -> Row:
        fixed, moving, labels = people(place, pair, "flair")
        found, row = ours(fixed, moving, "deformable", driving(metric))
        return {**row, **overlap(found, *labels)}

    return {"nc{}<-nc{}".format(*pair): partial(work, pair) for pair in PAIRS[: 1 if quick else None]}


def rigid(place: Path, metric: str, quick: bool) -> Cases:
    """Known rigid misalignments of one unseen patient: the odd ones of `benchmarks.registration rigid`."""

    def work(number: int) -> Row:
        fixed, aligned, _ = brains(place, number)
        known = random_rigid(fixed.grid.centre, number)
        moved = warp(aligned, known.inverse(), aligned.grid.padded(18), "cubic")
        found, row = ours(fixed, Image(moved.data, moved.grid), "rigid", driving(metric))
        points = fixed.grid.points()[fixed.data[0] > 0][::20]
        after, before = (true_errors(each, known, points) for each in (found.transform, Rigid(3)))
        return {**row, **errors(after, before, torch.mean)}

    return {str(number): partial(work, number) for number in range(1, 5 if quick else 41, 2)}


def noise(place: Path, metric: str, quick: bool) -> Cases:
    """T1 onto T1 of another person, both noisy."""

    def work(pair: tuple[str, str], sigma: float) -> Row:
        fixed, moving, labels = people(place, pair, "t1")
        noisy = [with_noise(image, sigma, seed) for seed, image in enumerate((fixed, moving))]
        name, plan = smoother(metric, fixed)
        found, row = ours(noisy[0], noisy[1], "deformable", name, plan)
        with torch.no_grad():
            determinant = found.transform.jacobian_determinant(fixed.grid)[fixed.data[0] > 0]
        return {**row, **overlap(found, *labels), "roughness": float(determinant.clamp_min(1e-3).log().std())}

    pairs, sigmas = PAIRS[: 1 if quick else 3], SIGMAS[1:2] if quick else SIGMAS
    return {"nc{}<-nc{} {}".format(*pair, sigma): partial(work, pair, sigma) for pair in pairs for sigma in sigmas}


def with_noise(image: Image, sigma: float, seed: int) -> Image:
    """Scaled to [0, 1] by its 99.5th percentile, with Gaussian noise everywhere."""
    data = image.data.float()
    scaled = data / torch.quantile(data[data > 0][::7], 0.995)
    drawn = torch.randn(scaled.shape, generator=torch.Generator().manual_seed(seed))
    return Image(scaled + sigma * drawn, image.grid, image.mask, image.name)


def duration(place: Path, metric: str, quick: bool) -> Cases:
    """Seconds of one evaluation with gradient; the ratio is to MIND's, measured alternately in the same run."""

    def work() -> Row:
        fixed, moving, _ = people(place, PAIRS[0], "flair")
        levels = [finest_level(fixed, moving, driving(name)) for name in (DEFAULT, metric)]
        seconds: list[list[float]] = [[], []]
        for _ in range(3 if quick else REPEATS):
            for own, level in zip(seconds, levels, strict=True):
                moved = level.points.clone().requires_grad_(True)
                began = time.perf_counter()
                torch.autograd.grad(level.cost(moved), moved)
                own.append(time.perf_counter() - began)
        reference, middle = (statistics.median(each) for each in seconds)
        return {"seconds": middle, "ratio": middle / reference}

    return {"2 mm": work}


SETS = {"between": between, "rigid": rigid, "noise": noise, "time": duration}


def measure(names: list[str], specs: list[str], output: Path, quick: bool) -> None:
    """Fill DIR/feature_loss.csv.

    Raises:
        InputError: the data are not here.
    """
    place = data_folder()
    if place is None:
        raise InputError("the real sets are not here: set REGSIM_DATA to the folder that holds them")
    table = Table(output / "feature_loss.csv", COLUMNS, KEY)
    write_machine(output)
    for name in names:
        for label, metric in map(labelled, specs):
            for case, work in SETS[name](place, metric, quick).items():
                key: dict[str, str | float] = {"set": name, "case": case, "metric": label}
                if not table.has(**key):
                    table.add(key | {column: value for column, value in work().items() if column in COLUMNS})


def tables(output: Path, screen: Console) -> None:
    """Medians of every set and metric, and of Dice the paired difference from MIND's with its test."""
    rows = list(read_rows(output / "feature_loss.csv"))
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        if not own:
            continue
        columns = [column for column in COLUMNS[3:] if any(row.get(column, "") != "" for row in own)]
        shown = Screen("metric", "n", *columns, "Dice less MIND's (90 %), TOST", title=name)
        for metric in dict.fromkeys(str(row["metric"]) for row in own):
            mine = [row for row in own if row["metric"] == metric]
            middles = [np.median([float(row[column]) for row in mine]) for column in columns]
            shown.add_row(metric, str(len(mine)), *[f"{middle:.4g}" for middle in middles], compared(own, metric))
        screen.print(shown)


def compared(rows: list[Row], metric: str) -> str:
    """The mean difference in Dice from MIND over the cases that both have, its interval, and the test's p value."""
    mine, other = ({row["case"]: row["dice"] for row in rows if row["metric"] == name and row.get("dice", "") != ""}
                   for name in (metric, DEFAULT))  # fmt: skip
    both = [case for case in mine if case in other]
    if metric == DEFAULT or len(both) < 2:
        return ""
    found = equivalence(*(np.array([float(each[case]) for case in both]) for each in (mine, other)), MARGIN)
    low, high = found.interval
    return f"{found.mean:+.4f} ({low:+.4f} to {high:+.4f}), p {found.probability:.2g}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=(*SETS, "tables"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-m", "--metric", action="append", default=[], dest="metrics")
    parser.add_argument("--quick", action="store_true", help="one pair, two starts")
    asked = parser.parse_args()
    measure([name for name in asked.sets if name in SETS], asked.metrics, asked.output, asked.quick)
    tables(asked.output, Console())


if __name__ == "__main__":
    main()
