"""Rigid registration beside SimpleITK (random and far starts, CT and MR, clinical scans), at the best settings of a search."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy import random_rigid
from benchmarks.peers import simpleitk
from benchmarks.peers.simpleitk import OPTIMISERS, Settings
from benchmarks.rows import Row, Table
from benchmarks.sets import OURS, BenchmarkSet, Plan, Run, errors, measured, ours, searching
from regsim.evaluation.accuracy import foreground_points, true_errors
from regsim.images import Grid, Image, read_image
from regsim.transforms import Rigid, Transform, read_transform, warp

PEER = "SimpleITK"
WITHIN = 1.05
SEARCH_STARTS = (1, 6)
FAST = OPTIMISERS[:3]
"""The others take ten times as long with equal samples: two samplings show what they reach."""
SAMPLINGS = (("none", 1.0), ("random", 0.01), ("random", 0.05), ("random", 0.1), ("random", 0.2), ("regular", 0.1))
FAR_SHIFT, FAR_DEGREES = 60.0, 90.0


def chosen(rows: list[Row]) -> Settings:
    """SimpleITK's best settings: the fastest whose mean error is within 5 % of the lowest mean error of all.

    >>> rows = [{"who": "SimpleITK a", "after": 1.0, "seconds": 9.0}, {"who": "SimpleITK b", "after": 1.04, "seconds": 2.0}]
    >>> best_of(rows + [{"who": "SimpleITK c", "after": 2.0, "seconds": 1.0}])
    'SimpleITK b'
    """
    return Settings.parse(best_of(rows).removeprefix(PEER + " "))


def best_of(rows: list[Row]) -> str:
    """The name that `chosen` reads."""
    means = search_means(rows)
    lowest = min(error for error, _ in means.values())
    return min((seconds, who) for who, (error, seconds) in means.items() if error <= WITHIN * lowest)[1]


def search_means(rows: list[Row]) -> dict[str, tuple[float, float]]:
    """Mean error and mean seconds of each settings that did all starts without a failure."""
    failed = {str(row["who"]) for row in rows if "after" not in row}
    whos = dict.fromkeys(str(row["who"]) for row in rows if str(row["who"]) not in failed)
    found = {}
    for who in whos:
        own = [(float(row["after"]), float(row["seconds"])) for row in rows if row["who"] == who]
        found[who] = (sum(error for error, _ in own) / len(own), sum(seconds for _, seconds in own) / len(own))
    return found


def _search_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    """Optimiser by sampling first; then, from the best, one change at a time of pyramid, bins and start."""
    if not plan.takes(PEER):
        return
    starts = SEARCH_STARTS[:1] if plan.quick else SEARCH_STARTS
    optimisers, samplings = (OPTIMISERS[:2], SAMPLINGS[2:4]) if plan.quick else (OPTIMISERS, SAMPLINGS)
    for optimiser in optimisers:
        for sampling, share in samplings if optimiser in FAST else samplings[1:3]:
            yield from _on_starts(starts, Settings(optimiser, sampling, share), table)
    if plan.quick or not table.rows:
        return
    best = chosen(table.rows)
    changes: tuple[dict[str, str | int], ...] = (
        {"shrink": "8-4-2-1"}, {"shrink": "4-2"}, {"bins": 50}, {"start": "identity"}, {"start": "mass"},
    )  # fmt: skip
    for change in changes:
        yield from _on_starts(starts, replace(best, **change), table)  # type: ignore[arg-type]


def _on_starts(starts: tuple[int, ...], settings: Settings, table: Table) -> Iterator[Run]:
    """The starts one after the other, as long as none failed or took too long."""
    who = f"{PEER} {settings}"
    for start in starts:
        if not any("problem" in row for row in table.rows if row["who"] == who):
            yield Run(str(start), who, str(settings))


def _rigid_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    for number in range(4 if plan.quick else 40):
        yield Run(str(number), OURS)
        if plan.takes(PEER):
            yield Run(str(number), PEER, str(_known_best(table)))


def _known_best(table: Table, start: str | None = None) -> Settings:
    """What the search chose, from its table beside this one; else settings that are common."""
    searched = Table(table.path.with_name("rigid_search.csv"), table.columns, table.key)
    best = chosen(searched.rows) if searched.rows else Settings("regular-step", "random", 0.1)
    return best if start is None else replace(best, start=start)


def _far_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    for number in range(3 if plan.quick else 40):
        yield Run(str(number), OURS)
        if plan.takes(PEER):
            yield Run(str(number), PEER, str(_known_best(table, "mass")))


def brains(data: Path, number: int) -> tuple[Image, Image, str]:
    """The T1 image, and T2 or FLAIR aligned with it, of one of two patients."""
    subject, contrast = ("msx07", "msx19")[number % 2], ("t2", "flair")[number // 2 % 2]
    folder = data / "brain_t1t2_mni"
    images = [read_image(folder / f"sub-{subject}_{name}.nii.gz") for name in ("t1", contrast)]
    return images[0], images[1], f"{subject} {contrast}"


def _measure_near(data: Path, run: Run) -> Row:
    fixed, aligned, name = brains(data, int(run.case))
    known = random_rigid(fixed.grid.centre, int(run.case))
    moved = warp(aligned, known.inverse(), aligned.grid.padded(18), "cubic")
    return {**_judged(fixed, Image(moved.data, moved.grid), known, run), "note": run.settings or name}


def _measure_far(data: Path, run: Run) -> Row:
    fixed, aligned, name = brains(data, int(run.case))
    known = random_rigid(fixed.grid.centre, 1000 + int(run.case), FAR_SHIFT, FAR_DEGREES)
    grid = _around(warp(aligned, known.inverse(), aligned.grid.padded(75), "nearest"), int(run.case))
    moved = warp(aligned, known.inverse(), grid, "cubic")
    row = _judged(fixed, Image(moved.data, moved.grid), known, run, search=True)
    return {**row, "note": " ".join(filter(None, (str(row.get("note", "")), run.settings or name)))}


def _around(image: Image, seed: int) -> Grid:
    """The image's grid cut to what is not zero, with margins of 5 to 25 voxels on each side."""
    generator = torch.Generator().manual_seed(seed)
    where = image.data[0].nonzero().flip(1)
    low = where.amin(dim=0) - torch.randint(5, 26, (3,), generator=generator)
    high = where.amax(dim=0) + torch.randint(5, 26, (3,), generator=generator)
    origin = image.grid.index_to_physical(low.double()[None])[0]
    return replace(image.grid, size=tuple((high - low + 1).tolist()), origin=tuple(origin.tolist()))


def _judged(fixed: Image, moving: Image, known: Transform, run: Run, search: bool = False) -> Row:
    """Register, and the true error over the head."""
    points = fixed.grid.points()[fixed.data[0] > 0][::20]
    note = ""
    if run.who == OURS:
        schedule, note = searching("rigid", fixed) if search else (None, "")
        found, row = ours(fixed, moving, "rigid", schedule=schedule)
    else:
        found, row = measured(lambda: simpleitk.rigid(fixed, moving, Settings.parse(run.settings)))
    after, before = (true_errors(each, known, points) for each in (found.transform, Rigid(3)))
    return {**row, **errors(after, before, torch.mean), "note": note}


def _ct_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    yield Run("phantom", OURS)
    if plan.takes(PEER):
        yield Run("phantom", PEER, str(_known_best(table, "mass")))


def _measure_ct(data: Path, run: Run) -> Row:
    folder = data / "ct_mr"
    fixed, moving = (read_image(folder / f"phantom_{name}.nii.gz") for name in ("ct", "t2"))
    known = read_transform(folder / "phantom_t2_onto_ct_mi_rigid_itk.txt", 3)
    note = ""
    if run.who == OURS:
        schedule, note = searching("rigid", fixed)
        found, row = ours(fixed, moving, "rigid", schedule=schedule)
    else:
        found, row = measured(lambda: simpleitk.rigid(fixed, moving, Settings.parse(run.settings)))
    points = foreground_points(fixed)
    after, before = (true_errors(each, known, points) for each in (found.transform, Rigid(3)))
    return {**row, **errors(after, before, torch.mean), "note": note or run.settings}


def _native_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    scans = sorted((data / "brain_t1t2_native").glob("*_flair.nii.gz"))[: 1 if plan.quick else None]
    for scan in scans:
        for contrast in ("t1", "t2"):
            case = f"{scan.name.removesuffix('_flair.nii.gz')} {contrast}"
            yield Run(case, OURS, "rigid")
            yield Run(case, f"{OURS} affine", "affine")
            if plan.takes(PEER):
                yield Run(case, PEER, str(_known_best(table, "identity")))


def _measure_native(data: Path, run: Run) -> Row:
    folder = data / "brain_t1t2_native"
    scan, contrast = run.case.split()
    fixed, moving = (read_image(folder / f"{scan}_{name}.nii.gz") for name in ("flair", contrast))
    known = read_transform(folder / f"{scan}_{contrast}_onto_flair_itk.txt", 3)
    if run.who.startswith(OURS):
        found, row = ours(fixed, moving, "affine" if run.settings == "affine" else "rigid")
    else:
        found, row = measured(lambda: simpleitk.rigid(fixed, moving, Settings.parse(run.settings)))
    points = foreground_points(fixed)
    after, before = (true_errors(each, known, points) for each in (found.transform, Rigid(3)))
    return {**row, **errors(after, before, torch.median), "note": run.settings}


LINEAR_SETS = {
    "rigid_search": BenchmarkSet(
        "SimpleITK's settings on a few of the rigid starts", _search_runs, _measure_near, 45.0
    ),
    "rigid": BenchmarkSet("T2 and FLAIR onto T1 at 1 mm, up to 15 mm and 15 degrees", _rigid_runs, _measure_near),
    "far": BenchmarkSet("the same from up to 60 mm and 90 degrees", _far_runs, _measure_far),
    "ct_mr": BenchmarkSet("T2 onto CT of a phantom, upside down by the files", _ct_runs, _measure_ct),
    "native": BenchmarkSet("clinical scans from their headers", _native_runs, _measure_native),
}
