"""IMSE beside classical metrics and translating networks, on people and contrasts that no model of imse has seen.

    python -m benchmarks.imse relative response rigid deformable score translation time -o DIR -m imse-brain-2d [...] [--quick]
    python -m benchmarks.imse tables -o DIR

`-m` names what is judged: metrics, models, folders of models, or LABEL=METRIC; COARSE+FINE is a hybrid: COARSE drives all levels
but the finest of its kind; paper:METRIC is the paper's instance optimisation (deformable: one level, 200 steps of Adam). A model
for pictures is judged on pictures, one for volumes on volumes; classical metrics as `--dims` says.

- relative: relative L1 of the evaluator's prediction (1 = as good as predicting nothing), also by misalignment in voxels, and
  rank correlation of the value with the true error, T1 against T2, FLAIR, PD; and T1 against T1 of the same people.
- response: the cost along shifts of +-30 voxels and turns of +-40 degrees of aligned pairs: how many minima, and how far the
  lowest lies from the truth.
- rigid: T2 onto T1, 2 mm, from up to 60 mm and 45 degrees, start at the identity; easy, bias, "half" of the field of view,
  a "slab" (a fifth of it), "lesions", "faint" (bias and strong noise), and a phantom's T2 onto its CT.
- deformable: T2 and FLAIR onto T1 with known fields of 4 mm on average, from the identity; easy, bias, noise. With a metric
  of reference=moving T1 is carried onto them.
- score: rank correlation of the value with true error and with Dice over random deformations.
- translation: T2 to T1, the reference aligned or bent: NMAE, PSNR, SSIM over the foreground; also -m histogram, -m reference.
- time: one evaluation with gradient at 128 x 128, or 64^3, one thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Screen

from benchmarks.accuracy import random_rigid
from benchmarks.contrasts import labelled
from benchmarks.imse_data import (
    OTHERS,
    REFERENCE,
    SIZES,
    SPACINGS,
    KnownCase,
    across,
    contrast_of,
    moved_away,
    phantom,
    random_bend,
    slices,
    volumes,
    with_contrast,
)
from benchmarks.rows import Row, Table, read_rows, write_machine
from regsim.applications.translate import HISTOGRAM, translated
from regsim.evaluation.accuracy import true_errors
from regsim.evaluation.response import cost_away
from regsim.evaluation.statistics import interval, spearman
from regsim.evaluation.surface import minima, optimum
from regsim.evaluation.translation import compare_translation
from regsim.images import Image
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.imse import IndescribableSpatialEvaluator
from regsim.metrics.translation import TranslatedMeanAbsoluteError
from regsim.misalign.restyled import RestyledBatch
from regsim.prepare import foreground
from regsim.registration import register
from regsim.registration.level import Level
from regsim.registration.schedule import Goal, Schedule, schedule_for, with_coarse_metric
from regsim.transforms import Rigid, warp

KEY = ("set", "case", "metric")
BINS = {
    "relative": (0.0, float("inf")),
    "below_3": (0.0, 3.0),
    "from_3_to_6": (3.0, 6.0),
    "from_12": (12.0, float("inf")),
}
COLUMNS = (*KEY, *BINS, "spearman", "low", "high", "spearman_dice", "minima", "offset", "before", "after",
           "folded_percent", "nmae", "psnr", "ssim", "ms", "seconds")  # fmt: skip
REACH = {"shift": 30, "turn": 40}
SUCCESS = 2.0
CT = "ct"
ITSELF_OF = "itself-"
PAPER, ITSELF, REVERSED = "paper:", "reference", "reference=moving"
REPEATS = 15
Cases = Iterator[tuple[str, Callable[[], Row]]]


def dims_of(spec: str, asked: int) -> int:
    """2 or 3: as the model has it, else as was asked."""
    settings = getattr(load_metric(spec), "card", None)
    return int(settings.network["dims"]) if settings is not None and "dims" in settings.network else asked


def relative(spec: str, dims: int, quick: bool) -> Cases:
    """Of each contrast, all its pairs together; and, of the same people, T1 against T1 ("itself-t2")."""
    metric = load_metric(spec)
    for other, itself in ((other, itself) for itself in (False, True) for other in OTHERS[dims]):

        def work(other: str = other, itself: bool = itself) -> Row:
            generator = torch.Generator().manual_seed(11)
            maker = across(dims, other, itself=itself)
            batches = [maker.restyled(8, generator) for _ in range(2 if quick else 8 if dims == 3 else 16)]
            row: Row = {}
            if isinstance(metric, IndescribableSpatialEvaluator):
                row = by_misalignment(metric, batches, SPACINGS[dims])
            with torch.no_grad():
                values = torch.cat([metric.cost(metric(b.pairs.fixed, b.pairs.moving, b.pairs.mask)) for b in batches])
            return {
                **row,
                "spearman": spearman(
                    values.double().numpy(), torch.cat([b.pairs.error for b in batches]).double().numpy()
                ),
            }

        yield f"{dims}-D {ITSELF_OF if itself else ''}{other}", work


def by_misalignment(
    metric: IndescribableSpatialEvaluator, batches: list[RestyledBatch], spacing: float
) -> dict[str, float]:
    """Relative L1 of the pairs whose misalignment lies within each of `BINS`, in voxels; those that have any."""
    sums = []
    for batch in batches:
        mask = batch.pairs.mask
        with torch.no_grad():
            wrong = metric.difference(batch.styled, batch.reference).float() - batch.difference
        each = [((part * mask).abs().flatten(1).sum(dim=1)) for part in (wrong, batch.difference)]
        sums.append(torch.stack([batch.pairs.error / spacing, *each]))
    away, wrong, right = torch.cat(sums, dim=1)
    inside = {name: (away >= low) & (away < high) for name, (low, high) in BINS.items()}
    return {name: float(wrong[some].sum() / right[some].sum()) for name, some in inside.items() if some.any()}


def response(spec: str, dims: int, quick: bool) -> Cases:
    """Of each subject (three at most a contrast), two shifts or three, and turns."""
    metric = load_metric(spec)
    for other in OTHERS[dims]:
        for subject in with_contrast(SPACINGS[dims], other)[: 1 if quick else 3]:
            axes = [*["x", "y", "z"][:dims], "turn"]
            for axis in axes:
                yield f"{dims}-D {other} {subject.name} {axis}", partial(_response, metric, subject, other, axis, dims)


def _response(metric: AbstractMetric, subject: object, other: str, axis: str, dims: int) -> Row:
    spacing = SPACINGS[dims]
    take = slices if dims == 2 else volumes
    fixed, moving = take(subject, spacing, REFERENCE, contrast_of(other))  # type: ignore[arg-type]
    level = Level(fixed, Image(moving.data, moving.grid, name=moving.name), metric)
    reach = REACH["turn" if axis == "turn" else "shift"]
    coarse = np.arange(-reach, reach + 1e-6, 2.0)
    fine = np.arange(-1.5, 1.51, 0.25)
    number, unit = (dims, 1.0) if axis == "turn" else ("xyz".index(axis), spacing)
    still = Rigid(dims, level.grid.centre)
    cost = {at: cost_away(level, still, number, at * unit) for at in sorted({*coarse.tolist(), *fine.tolist()})}
    values = np.array([cost[float(at)] for at in coarse])
    lowest = min(cost, key=lambda at: cost[at])
    offset = optimum(fine, np.array([cost[float(at)] for at in fine])) if abs(lowest) <= 1.5 else lowest
    return {"minima": minima(values), "offset": abs(float(offset))}


def plan_for(spec: str, goal: Goal, image: Image) -> Schedule:
    """The driver's plan from the identity; COARSE+FINE is a hybrid. In deformable ones only the last stage is left."""
    paper = spec.startswith(PAPER)
    coarse, plus, fine = spec.removeprefix(PAPER).partition("+")
    name = fine if plus else coarse
    if paper:
        return one_level(name, image)
    plan = schedule_for(goal, image.grid, None if name == "mind" and goal == "deformable" else name, start="identity")
    if goal == "deformable":
        plan = plan.model_copy(update={"stages": plan.stages[-1:]})
    return with_coarse_metric(plan, coarse) if plus else plan


def one_level(metric: str, image: Image) -> Schedule:
    """The paper's instance optimisation: one field at the image's resolution, from zero, 200 steps of Adam, no pyramid."""
    spacing = min(image.grid.spacing)
    level = {"spacing": spacing, "steps": 200, "step": 0.5 * spacing, "control_spacing": 2 * spacing}
    stage = {
        "transform": "control_grid",
        "metric": metric,
        "levels": [level],
        "penalties": {"diffusion": 1.0, "jacobian": 40.0},
    }
    return Schedule.checked({"stages": [stage], "start": "identity"})


def rigid(spec: str, dims: int, quick: bool) -> Cases:
    """T2 onto T1 of the unseen patient and of one more person, 2 mm; and of the phantom T2 onto CT."""
    del dims
    people = with_contrast(SPACINGS[3], "t2")[:2]
    for condition in ("easy", "half", "slab", "lesions", "bias", "faint", CT):
        for number in range(2 if quick else 10 if condition == CT else 20):
            subject = people[number % 2]

            def work(subject: object = subject, number: int = number, condition: str = condition) -> Row:
                spacing = SPACINGS[3]
                fixed, moving = phantom(spacing) if condition == CT else volumes(subject, spacing, REFERENCE, "t2")  # type: ignore[arg-type]
                known = random_rigid(fixed.grid.centre, number, 60.0, 45.0)
                case = moved_away(fixed, moving, known, 24, condition)
                return _registered(case, spec, "rigid")

            yield f"{condition} {number}", work


def deformable(spec: str, dims: int, quick: bool) -> Cases:
    """T2 and FLAIR onto T1, one known field each."""
    del dims
    back = REVERSED in spec  # the reference is carried: T1 onto the other contrast
    for condition in ("easy",) if back else ("easy", "bias", "noise"):
        for other, most in (("t2", 2), ("flair", 6)):
            for number, subject in enumerate(with_contrast(SPACINGS[3], other)[: 1 if quick else most]):

                def work(
                    subject: object = subject, number: int = number, condition: str = condition, other: str = other
                ) -> Row:
                    pair = (other, REFERENCE) if back else (REFERENCE, other)
                    fixed, moving = volumes(subject, SPACINGS[3], *pair)  # type: ignore[arg-type]
                    known = random_bend(fixed.grid, 100 + number, 30.0, 4.0)
                    return _registered(moved_away(fixed, moving, known, 0, condition), spec, "deformable")

                yield f"{condition} {other} {subject.name}", work


def _registered(case: KnownCase, spec: str, goal: Goal) -> Row:
    plan = plan_for(spec, goal, case.fixed)
    before = true_errors(Rigid(3, case.fixed.grid.centre), case.known, case.points)
    try:
        found = register(case.fixed, case.moving, schedule=plan)
    except Exception as problem:  # a lost overlap counts as a failure
        print(f"{spec}: {problem}")
        return {"before": float(before.mean()), "after": float(before.mean())}
    row: Row = {
        "before": float(before.mean()),
        "after": float(true_errors(found.transform, case.known, case.points).mean()),
        "seconds": found.seconds,
    }
    if goal == "deformable":
        with torch.no_grad():
            row["folded_percent"] = 100 * float(
                (found.transform.jacobian_determinant(case.fixed.grid) <= 0).float().mean()
            )
    return row


def score(spec: str, dims: int, quick: bool) -> Cases:
    """Random deformations of aligned pairs: the value against true error, and against Dice of a tissue that is told by T1."""
    metric = load_metric(spec)
    for other in OTHERS[dims]:

        def work(other: str = other) -> Row:
            people = with_contrast(SPACINGS[dims], other)[:6]
            count = 12 if quick else 120 if dims == 2 else 36
            values, errors, overlaps = zip(
                *(_scored(metric, people, other, dims, n) for n in range(count)), strict=True
            )
            cost, error, shared = (np.array(each) for each in (values, errors, overlaps))
            ends = interval(lambda some: spearman(cost[some], error[some]), [str(n) for n in range(count)], 500, 0)
            low, high = ends or (float("nan"), float("nan"))
            return {
                "spearman": spearman(cost, error),
                "low": low,
                "high": high,
                "spearman_dice": spearman(cost, shared),
            }

        yield f"{dims}-D {other}", work


def _scored(metric: AbstractMetric, people: list, other: str, dims: int, number: int) -> tuple[float, float, float]:
    """The cost, the mean true error over the anatomy, and the Dice of bright tissue, of one random deformation."""
    subject, spacing = people[number % len(people)], SPACINGS[dims]
    random = np.random.default_rng(number)
    if dims == 2:
        fixed, moving = slices(subject, spacing, REFERENCE, contrast_of(other), at=float(random.uniform(0.35, 0.65)))
    else:
        fixed, moving = volumes(subject, spacing, REFERENCE, contrast_of(other))
    error = float(random.uniform(0.0, 8.0))
    bend = random_bend(fixed.grid, number, float(random.uniform(20, 60)), error)
    inside = foreground(fixed)
    with torch.no_grad():
        points = fixed.grid.points()
        away = float((bend(points) - points).norm(dim=-1)[inside].mean())
        carried = warp(moving, bend, fixed)
        tissue = (fixed.data > fixed.data[:, inside].median()).float() * inside
        other_tissue = warp(Image(tissue, fixed.grid), bend, fixed).data > 0.5
        both = float((other_tissue & (tissue > 0.5)).sum())
        overlap = 2 * both / max(1.0, float(other_tissue.sum() + (tissue > 0.5).sum()))
        mask = None if carried.mask is None else carried.mask[None]
        value = float(metric.cost(metric(fixed.batch, carried.batch, mask)))
    return value, away, overlap


def translation(spec: str, dims: int, quick: bool) -> Cases:
    """T2 to T1: the reference is the same person's T1, displaced by 0 or some 3 mm; each model's planes or volumes."""
    for name, misaligned in (("aligned", 0.0), ("misaligned", 3.0)):
        for number, subject in enumerate(with_contrast(SPACINGS[dims], "t2")[: 1 if quick else 3]):
            for at in (0.4, 0.5, 0.6) if dims == 2 else (0.5,):

                def work(
                    subject: object = subject, number: int = number, at: float = at, error: float = misaligned
                ) -> Row:
                    spacing = SPACINGS[dims]
                    pair = (
                        slices(subject, spacing, REFERENCE, "t2", at=at)  # type: ignore[arg-type]
                        if dims == 2
                        else volumes(subject, spacing, REFERENCE, "t2")  # type: ignore[arg-type]
                    )
                    truth, source = pair
                    bend = random_bend(truth.grid, number, 40.0, error)
                    like = Image(warp(truth, bend, truth).data, truth.grid, name="reference") if error else truth
                    found = like if spec == ITSELF else translated(source, like, None, spec)
                    row = compare_translation(found, truth, spec)[0]
                    return {"nmae": row.nmae, "psnr": row.psnr, "ssim": row.ssim}

                yield f"{dims}-D {name} {subject.name} {at}", work


def duration(spec: str, dims: int, quick: bool) -> Cases:
    """Milliseconds of one evaluation with gradient to the moving image."""
    metric = load_metric(spec)

    def work() -> Row:
        shape = (1, 1, *([128] * 2 if dims == 2 else [64] * 3))
        fixed = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        moving = fixed.flip(-1).contiguous().requires_grad_(True)
        bound = metric.bind(fixed)
        seconds = []
        for _ in range(3 if quick else REPEATS):
            began = time.perf_counter()
            torch.autograd.grad(metric.cost(bound(moving)).sum(), moving)
            seconds.append(time.perf_counter() - began)
        return {"ms": 1000 * statistics.median(seconds)}

    yield f"{SIZES[dims]}^{dims}", work


def translates(spec: str) -> bool:
    """Whether a metric can bring an image to another contrast."""
    return (
        "+" not in spec
        and PAPER not in spec
        and isinstance(load_metric(spec), IndescribableSpatialEvaluator | TranslatedMeanAbsoluteError)
    )


SETS = {"relative": relative, "response": response, "rigid": rigid, "deformable": deformable, "score": score,
        "translation": translation, "time": duration}  # fmt: skip


def measure(names: list[str], specs: list[str], output: Path, dims: int, quick: bool) -> None:
    """Fill DIR/imse.csv; what is there is not measured again."""
    table = Table(output / "imse.csv", COLUMNS, KEY)
    write_machine(output)
    for name in names:
        for label, spec in map(labelled, specs):
            plain = spec in (HISTOGRAM, ITSELF)
            able = plain or translates(spec)
            if (name == "translation" and not able) or (name != "translation" and plain):
                continue
            own = dims if plain or "+" in spec or PAPER in spec else dims_of(spec, dims)
            for case, work in SETS[name](spec, own, quick):
                key: dict[str, str | float] = {"set": name, "case": case, "metric": label}
                if not table.has(**key):
                    table.add(key | work())


def tables(output: Path, screen: Console) -> None:
    """Of each set: a row for each metric and kind of case, means, medians for errors, and the share of successes."""
    rows = list(read_rows(output / "imse.csv"))
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        if not own:
            continue
        columns = [column for column in COLUMNS[3:] if any(row.get(column, "") != "" for row in own)]
        shown = Screen("metric", "cases", "n", *columns, *(["success %"] if name == "rigid" else []), title=name)
        for kind, metric in dict.fromkeys((kind_of(row), str(row["metric"])) for row in own):
            mine = [row for row in own if kind_of(row) == kind and row["metric"] == metric]
            values = [[float(row[column]) for row in mine if row.get(column, "") != ""] for column in columns]
            cells = [
                f"{(np.median if column == 'after' else np.mean)(each):.4g}" if each else ""
                for column, each in zip(columns, values, strict=True)
            ]
            if name == "rigid":
                cells.append(f"{100 * np.mean([float(row['after']) < SUCCESS for row in mine]):.0f}")
            shown.add_row(metric, kind, str(len(mine)), *cells)
        screen.print(shown)


def kind_of(row: Row) -> str:
    """What cases are put together: the first two words (dimension and contrast), or the first (condition)."""
    words = str(row["case"]).split()
    if row["set"] == "response":
        return f"{words[0]} {words[1]} {'turn' if words[-1] == 'turn' else 'shift'}"
    return words[0] if row["set"] == "rigid" else " ".join(words[:2])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=(*SETS, "tables"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-m", "--metric", action="append", default=[], dest="metrics")
    parser.add_argument("--dims", type=int, choices=(2, 3), default=2)
    parser.add_argument("--quick", action="store_true", help="one subject, two starts")
    asked = parser.parse_args()
    measure([name for name in asked.sets if name in SETS], asked.metrics, asked.output, asked.dims, asked.quick)
    tables(asked.output, Console(width=160))


if __name__ == "__main__":
    main()
