"""How well metrics order and detect known misalignments across contrasts, on subjects that no training saw.

    python -m benchmarks.contrasts measure -o FOLDER -m mind -m nmi:bins=64 [-m LABEL=MODEL_DIR] [--dims 3] [--set t1_t2]
        [--condition easy] [--quick]
    python -m benchmarks.contrasts optimum -o FOLDER -m mind [...]
    python -m benchmarks.contrasts tables FOLDER [--set t1_t2] [--condition easy]

`measure` writes `pairs.csv`: true error and cost of every metric on every pair (`benchmarks.contrast_pairs`). `optimum` writes
`optimum.csv`: where costs are lowest along sub-voxel shifts (`benchmarks.contrast_optimum`). Both go on where they were stopped,
and what is there is not measured again: a metric that is added later sees exactly the same pairs. `tables` writes `summary.csv`.

A metric is a registered name, with settings where wanted, or a model folder; LABEL= before it names its rows. Labels
`name/seed0`, `name/seed1` are trainings of one kind: `tables` gives their mean and spread, too.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import contrast_optimum
from benchmarks.contrast_pairs import CONDITIONS, ContrastPairs, Wanted, wanted_pairs
from benchmarks.contrast_rows import Bar, Stored
from benchmarks.contrast_subjects import SETS, Case, Source, sources
from benchmarks.contrast_tables import OPTIMUM_FILE, PAIRS_FILE, write_tables
from benchmarks.data import data_folder
from benchmarks.rows import write_machine
from regsim.errors import InputError, RegsimError
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.names import is_model, label_of

PAIR_KEY = ("dims", "set", "condition", "subject", "group", "number", "metric")
LINE_KEY = ("dims", "set", "condition", "subject", "axis", "number", "metric")
COUNT, LADDER, QUICK_COUNT, QUICK_LADDER, QUICK_SUBJECTS, QUICK_PLANES = 4, 12, 2, 6, 6, 2
SAME = 1e-3
Metrics = Mapping[str, AbstractMetric]


def labelled(spec: str) -> tuple[str, str]:
    """Label and metric: `LABEL=MODEL_DIR`, or the metric as it is written.

    >>> labelled("ours/seed1=models/a"), labelled("nmi:bins=64")
    (('ours/seed1', 'models/a'), ('nmi:bins=64', 'nmi:bins=64'))
    """
    label, equals, rest = spec.partition("=")
    if equals and label and ":" not in label:
        return label.strip(), rest.strip()
    return (label_of(spec) if is_model(spec) and Path(spec).is_dir() else spec.strip()), spec.strip()


def load_metrics(specs: Sequence[str]) -> dict[str, AbstractMetric]:
    """Metrics by label.

    Raises:
        InputError: two of one label.
    """
    found: dict[str, AbstractMetric] = {}
    for label, metric in map(labelled, specs):
        if label in found:
            raise InputError(f"two metrics are labelled '{label}': expected different ones, as LABEL=METRIC")
        found[label] = load_metric(metric).eval()
    return found


def measure_case(
    case: Case, wanted: Sequence[Wanted], conditions: Sequence[str], metrics: Metrics, stored: Stored, bar: Bar
) -> None:
    """All pairs of one subject; only what is missing is drawn and measured.

    Raises:
        InputError: the folder has rows of other pairs.
    """
    own = with_spacing(case, metrics)
    pairs, known = ContrastPairs(case), stored.errors()
    for one in wanted:
        for condition in conditions:
            place = place_of(case, condition) | {"group": one.group, "number": one.number}
            names = stored.missing(list(own), **place)
            if names:
                pair = pairs.pair(one, condition)
                error = known.get(tuple(str(place[name]) for name in PAIR_KEY[:-1]), pair.error)
                if abs(error - pair.error) > SAME * max(error, 1.0):
                    raise InputError(
                        f"'{stored.table.path}' holds other pairs than this version draws; give another folder"
                    )
                for name in names:
                    with torch.no_grad():
                        cost = float(own[name].cost(own[name](pair.fixed, pair.moving, pair.mask)))
                    stored.add({**place, "metric": name, "error": pair.error, "cost": f"{cost:.9g}"})
            bar.step()


def optimum_case(case: Case, planes: int, metrics: Metrics, stored: Stored, bar: Bar) -> None:
    """All lines of one subject."""
    own = with_spacing(case, metrics)
    for line in contrast_optimum.lines(case, planes):
        place = place_of(case, line.condition) | {"axis": line.axis, "number": line.repeat}
        names = stored.missing(list(own), **place)
        if names:
            found = contrast_optimum.offsets(case, line, {name: own[name] for name in names})
            for name, offset in found.items():
                stored.add({**place, "metric": name, "offset": offset})
        bar.step()


def with_spacing(case: Case, metrics: Metrics) -> dict[str, AbstractMetric]:
    """The metrics for a case's voxels."""
    return {name: metric.with_spacing((case.spacing,) * case.dims) for name, metric in metrics.items()}


def place_of(case: Case, condition: str) -> dict[str, str | int]:
    """The columns that name a subject and its condition."""
    return {"dims": case.dims, "set": case.set, "condition": condition, "subject": case.subject.name}


def chosen_sources(dims: Sequence[int], sets: Sequence[str], quick: bool) -> list[Source]:
    """What was asked for, at most six subjects a set where it shall be quick.

    Raises:
        InputError: the data are not here, or a set that is unknown.
    """
    place = data_folder()
    if place is None:
        raise InputError("the real sets are not here: set REGSIM_DATA to the folder that holds them")
    unknown = [name for name in sets if not any(name in SETS[each] for each in dims)]
    if unknown:
        known = ", ".join(sorted({name for each in dims for name in SETS[each]}))
        raise InputError(f"unknown set '{unknown[0]}'; known: {known}")
    found: list[Source] = []
    for each in dims:
        for name in SETS[each]:
            if name in (sets or SETS[each]):
                own = sources(place, each, name)
                found += own[:: -(-len(own) // QUICK_SUBJECTS)] if quick else own
    return found


def measure(asked: argparse.Namespace, chosen: Sequence[Source], metrics: Metrics, progress: Progress) -> None:
    """Fill `pairs.csv`."""
    count, ladder = (QUICK_COUNT, QUICK_LADDER) if asked.quick else (asked.count, asked.ladder)
    wanted, conditions = list(wanted_pairs(count, ladder)), asked.conditions or CONDITIONS
    stored = Stored(asked.output / PAIRS_FILE, PAIR_KEY, ("error", "cost"))
    bar = Bar(progress, len(chosen) * len(wanted) * len(conditions))
    for source in chosen:
        bar.start(f"{source.dims}-D {source.set} {source.name}")
        measure_case(source.case(), wanted, conditions, metrics, stored, bar)


def find_optima(asked: argparse.Namespace, chosen: Sequence[Source], metrics: Metrics, progress: Progress) -> None:
    """Fill `optimum.csv`."""
    planes = QUICK_PLANES if asked.quick else contrast_optimum.PLANES
    stored = Stored(asked.output / OPTIMUM_FILE, LINE_KEY, ("offset",))
    bar = Bar(progress, sum(contrast_optimum.line_count(source.dims, planes) for source in chosen))
    for source in chosen:
        bar.start(f"{source.dims}-D {source.set} {source.name}")
        optimum_case(source.case(), planes, metrics, stored, bar)


def run(asked: argparse.Namespace) -> None:
    """`measure` or `optimum`."""
    torch.set_num_threads(asked.threads)
    metrics, chosen = load_metrics(asked.metrics), chosen_sources(asked.dims or (3, 2), asked.sets, asked.quick)
    write_machine(asked.output)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        (measure if asked.command == "measure" else find_optima)(asked, chosen, metrics, progress)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring, optimal, tables = (commands.add_parser(name) for name in ("measure", "optimum", "tables"))
    for command in (measuring, optimal):
        command.add_argument("-o", "--output", type=Path, required=True)
        command.add_argument("-m", "--metric", action="append", required=True, dest="metrics", metavar="[LABEL=]METRIC")
        command.add_argument("--dims", type=int, action="append", choices=(2, 3))
        command.add_argument("--quick", action="store_true", help="fewer pairs, at most six subjects a set")
        command.add_argument("--threads", type=int, default=1)
    measuring.add_argument("--count", type=int, default=COUNT, help="pairs aligned, of 1 mm, of 2 mm")
    measuring.add_argument("--ladder", type=int, default=LADDER, help="pairs of 0 to 8 mm")
    measuring.add_argument("--condition", nargs="+", action="extend", default=[], dest="conditions", choices=CONDITIONS)
    tables.add_argument("folder", type=Path)
    tables.add_argument("--condition", nargs="+", action="extend", default=[], dest="conditions")
    for command in (measuring, optimal, tables):
        command.add_argument("--set", nargs="+", action="extend", default=[], dest="sets")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    asked = arguments(words)
    try:
        write_tables(asked.folder, asked.sets, asked.conditions) if asked.command == "tables" else run(asked)
    except RegsimError as problem:
        raise SystemExit(f"contrasts: {problem}") from None


if __name__ == "__main__":
    main()
