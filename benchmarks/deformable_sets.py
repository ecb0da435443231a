"""Deformable registration beside the peers: brains between subjects (labels judge), sections, and regsim's scaling."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.peers import Found, installed
from benchmarks.rows import Row, Table
from benchmarks.sets import OURS, BenchmarkSet, Plan, Run, errors, mapped, measured, ours, overlap, with_steps
from regsim.evaluation.accuracy import landmark_errors
from regsim.images import Image, read_image, read_landmarks
from regsim.metrics import load_metric
from regsim.prepare import coarser
from regsim.registration.schedule import Goal, schedule_for
from regsim.transforms import Rigid, Transform, warp

PAIRS = (("01", "02"), ("04", "05"), ("06", "08"), ("12", "13"), ("14", "16"), ("17", "19"), ("21", "22"), ("09", "04"))
LNCC = f"{OURS} lncc"
LNCC_METRIC = "lncc:window=7"
SYN, SYN_CC = "ANTs SyN", "ANTs SyNCC"
WITHIN = (OURS, LNCC, SYN, SYN_CC, "convexAdam", "elastix", "FireANTs")
ACROSS = (OURS, SYN, "convexAdam", "elastix")
LARGE = (OURS, LNCC, SYN, "convexAdam", "elastix", "FireANTs")
STAGES_3D, STAGES_2D = ("affine", "bspline"), ("rigid", "affine", "bspline")


def aligned(fixed: Image, moving: Image, run: Run, stages: tuple[str, ...] = STAGES_3D) -> tuple[Found, Row]:
    """One deformable registration by the contestant of this run."""
    if run.who.startswith(OURS):
        return ours(fixed, moving, "deformable", LNCC_METRIC if run.who == LNCC else None)
    return measured(_peer(fixed, moving, run, stages))


def _peer(fixed: Image, moving: Image, run: Run, stages: tuple[str, ...]) -> Callable[[], Found]:
    if run.who.startswith("ANTs"):
        from benchmarks.peers import ants

        return lambda: ants.register(fixed, moving, run.who.removeprefix("ANTs "))
    if run.who == "elastix":
        from benchmarks.peers import elastix

        return lambda: elastix.register(fixed, moving, stages)
    return _after_affine(fixed, moving, run.who)


def _after_affine(fixed: Image, moving: Image, who: str) -> Callable[[], Found]:
    """convexAdam has no affine stage and FireANTs' own fails from these headers: regsim's comes first, its seconds count."""
    if who == "FireANTs":
        from benchmarks.peers import fireants as peer
    else:
        from benchmarks.peers import convexadam as peer  # type: ignore[no-redef]
    affine = ours(fixed, moving, "affine")[0]

    def work() -> Found:
        found = peer.register(fixed, moving, affine.transform)
        return Found(found.transform, found.seconds + affine.seconds)

    return work


def _who(plan: Plan, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if plan.takes(name) and installed(name)]


def _between_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    for target, source in PAIRS[: 1 if plan.quick else None]:
        for contrast, names in (("t1", WITHIN), ("flair", ACROSS)):
            for who in _who(plan, names):
                yield Run(f"nc{target}<-nc{source} {contrast}", who)


def _measure_between(data: Path, run: Run) -> Row:
    folder = data / "brain_t1_flair_labels"
    names, contrast = run.case.split()
    target, source = names.split("<-")
    fixed = read_image(folder / f"sub-{target}_t1.nii.gz")
    moving = read_image(folder / f"sub-{source}_{contrast}.nii.gz")
    labels = [read_image(folder / f"sub-{name}_labels.nii.gz", labels=True) for name in (target, source)]
    found, row = aligned(fixed, moving, run)
    return {**row, **overlap(found, *labels)}


def _large_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    for who in _who(plan, LARGE[:3] if plan.quick else LARGE):
        yield Run("lapa<-lapb", who)


def _measure_large(data: Path, run: Run) -> Row:
    folder = data / "brain_t1_oasis"
    fixed, moving = (read_image(folder / f"sub-{name}_t1.nii.gz") for name in ("lapa", "lapb"))
    labels = [read_image(folder / f"sub-{name}_tissues.nii.gz", labels=True) for name in ("lapa", "lapb")]
    found, row = aligned(fixed, moving, run)
    return {**row, **overlap(found, *labels), "voxels": float(fixed.grid.voxels)}


# --- sections ---------------------------------------------------------------------------------------------------------


def _histology_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    for who in _who(plan, (OURS, "elastix")):
        yield Run("kidney he<-pancytokeratin", who)
        yield Run("kidney pancytokeratin<-he", who)


def _measure_histology(data: Path, run: Run) -> Row:
    folder = data / "histology_stains"
    names = [f"rat_kidney_{name}" for name in run.case.split()[1].split("<-")]
    fixed, moving = (read_image(folder / f"{name}.jpg") for name in names)
    points = [read_landmarks(folder / f"{name}.csv") for name in names]
    count = min(len(each) for each in points)
    here, there = (each[:count] for each in points)
    found, row = aligned(fixed, moving, run, STAGES_2D)
    after, before = (landmark_errors(each, here.float(), there.float()) for each in (found.transform, Rigid(2)))
    diagonal = float(torch.tensor(fixed.grid.extent).norm())
    relative = (
        f"median rTRE {100 * float(before.median()) / diagonal:.3f} % to {100 * float(after.median()) / diagonal:.3f} %"
    )
    return {
        **row,
        **errors(after, before, torch.median),
        "folded_percent": _folded(found.transform, fixed),
        "note": relative,
    }


def _folded(transform: Transform, fixed: Image) -> float:
    with torch.no_grad():
        return 100 * float((transform.jacobian_determinant(fixed.grid) <= 0).float().mean())


def _em_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    for number in range(1, 3 if plan.quick else 8):
        for who in _who(plan, (OURS, "elastix")):
            yield Run(f"{number:02d}<-{number + 1:02d}", who)


def _measure_em(data: Path, run: Run) -> Row:
    """There is no truth: forward and backward maps must cancel, and similarity, by a metric that drove neither, must rise."""
    folder = data / "em_sections" / "lung_sem"
    fixed, moving = (read_image(folder / f"{name}.png") for name in run.case.split("<-"))
    found, row = aligned(fixed, moving, run, STAGES_2D)
    back, _ = aligned(moving, fixed, run, STAGES_2D)
    points = fixed.grid.padded(-40).points()[::10, ::10].reshape(-1, 2)
    there = mapped(found.transform, points)
    inside = moving.grid.contains(there)
    apart = (mapped(back.transform, there) - points).norm(dim=-1)[inside]
    carried = warp(moving, found.transform, fixed)
    likeness = {
        name: float(load_metric(name)(fixed.batch, carried.batch, carried.mask_batch)) for name in ("ncc", "mind")
    }
    worse = float(load_metric("ncc")(fixed.batch, warp(moving, None, fixed).batch))
    row |= {"consistency": float(apart.mean()), "folded_percent": _folded(found.transform, fixed), **likeness}
    return {**row, "note": f"ncc before {worse:.3f}"}


# --- scaling ----------------------------------------------------------------------------------------------------------


def _scaling_runs(plan: Plan, table: Table, data: Path) -> Iterator[Run]:
    spacings = (4.0, 2.0) if plan.quick else (4.0, 3.0, 2.0, 1.5, 1.0)
    goals: tuple[Goal, ...] = ("rigid", "deformable")
    for goal in goals:
        for spacing in spacings:
            for threads in (2,) if plan.quick else (2, 1):
                yield Run(f"{goal} {spacing} mm", OURS, f"{goal} {spacing} 1", threads)
        for factor in (0.5, 2.0):
            yield Run(f"{goal} 2.0 mm, steps x {factor}", OURS, f"{goal} 2.0 {factor}")


def _measure_scaling(data: Path, run: Run) -> Row:
    goal, spacing, factor = run.settings.split()
    kind: Goal = "rigid" if goal == "rigid" else "deformable"
    folder = data / "brain_t1_oasis"
    images = [read_image(folder / f"sub-{name}_t1.nii.gz") for name in ("lapa", "lapb")]
    fixed, moving = (coarser(image, float(spacing)) for image in images)
    schedule = with_steps(schedule_for(kind, fixed.grid), float(factor))
    _, row = ours(fixed, moving, kind, schedule=schedule)
    return {**row, "voxels": float(fixed.grid.voxels), "steps": float(schedule.total_steps)}


DEFORMABLE_SETS = {
    "deformable": BenchmarkSet("brains between subjects at 2 mm, labels judge", _between_runs, _measure_between),
    "large": BenchmarkSet("one pair at 1 mm, 160x192x144", _large_runs, _measure_large),
    "histology": BenchmarkSet("kidney sections in two stains, landmarks", _histology_runs, _measure_histology),
    "em": BenchmarkSet("neighbouring lung sections, electron microscope", _em_runs, _measure_em),
    "scaling": BenchmarkSet("regsim's seconds against voxels, steps and threads", _scaling_runs, _measure_scaling),
}
