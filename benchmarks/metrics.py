"""Speed, memory and agreement of metrics: `python -m benchmarks.metrics [CASE ...] [--quick] [-o DIR]`.

regsim and each peer compute the same value with its gradient, in turn, in one process a case, size and number of threads;
peak memory comes from one call in a process of its own. Rows are appended to DIR/metrics.csv as they come; what stands there
is not measured again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measuring import bandwidth, in_fresh_process, in_turn, peak_memory
from benchmarks.metric_cases import CASES, OURS, Contestant, Shape, cropped
from benchmarks.rows import Row, Table, shown, write_machine

SIZES: tuple[Shape, ...] = ((48, 48, 48), (64, 80, 64), (96, 112, 88), (160, 192, 144))
QUICK: tuple[Shape, ...] = ((48, 48, 48), (96, 112, 88))
TINY: Shape = (24, 24, 24)
COLUMNS = (
    "what", "who", "shape", "voxels", "threads", "seconds", "median_seconds", "bound_seconds", "runs", "memory_mib",
    "copy_seconds", "over_limit", "peer_over_ours", "value_difference", "gradient_difference",
    "gradient_largest", "gradient_cosine", "note",
)  # fmt: skip
KEY = ("what", "shape", "threads")


@dataclass(frozen=True)
class Agreement:
    """Relative differences of values and of gradients (norm; largest entry over largest), and the gradients' cosine."""

    value: float
    gradient: float | None = None
    largest: float | None = None
    cosine: float | None = None


def agreement(
    first: tuple[float, torch.Tensor | None], second: tuple[float, torch.Tensor | None], margin: int
) -> Agreement:
    """Compare two answers: values, and gradients `(..., z, y, x)` without `margin` voxels at the border.

    >>> agreement((1.0, torch.ones(4, 4, 4)), (1.01, torch.ones(4, 4, 4)), 1)
    Agreement(value=0.01, gradient=0.0, largest=0.0, cosine=1.0)
    """
    value = round(abs(second[0] - first[0]) / max(abs(first[0]), 1e-12), 9)
    if first[1] is None or second[1] is None:
        return Agreement(value)
    a, b = (cropped(gradient.double(), margin) for gradient in (first[1], second[1]))
    norm, largest = max(float(b.norm()), 1e-30), max(float(b.abs().max()), 1e-30)
    cosine = float((a * b).sum() / max(float(a.norm()) * norm, 1e-30))
    return Agreement(value, float((a - b).norm()) / norm, float((a - b).abs().max()) / largest, round(cosine, 6))


def measure(name: str, shape: Shape, rounds: int, budget: float) -> list[Row]:
    """Times and agreement of all contestants of a case at one size; runs in a process of its own."""
    case = CASES[name]()
    for contestant in case.contestants:
        contestant.prepare(TINY)()
    calls = {contestant.who: contestant.prepare(shape) for contestant in case.contestants}
    bound = {f"{each.who} bound": each.bound(shape) for each in case.contestants if each.bound is not None}
    times = in_turn({**calls, **bound}, rounds, budget)
    limit = torch.Size(shape).numel() / bandwidth()
    own = times[OURS].best
    rows: list[Row] = []
    for contestant in case.contestants:
        spent = times[contestant.who]
        row: Row = {"what": case.what, "who": contestant.who, "seconds": spent.best, "median_seconds": spent.median}
        row |= {"runs": len(spent.seconds), "copy_seconds": limit, "over_limit": spent.best / limit}
        row |= {"peer_over_ours": spent.best / own, "note": case.note}
        if f"{contestant.who} bound" in times:
            row["bound_seconds"] = times[f"{contestant.who} bound"].best
        if contestant.who != OURS:
            row |= _agreed(case.contestants[0], contestant, shape, case.margin, case.same)
        rows.append(row)
    return rows


def _agreed(own: Contestant, peer: Contestant, shape: Shape, margin: int, same: bool) -> Row:
    """Columns of agreement with a peer."""
    ours, theirs = own.prepare(shape)(), peer.prepare(shape)()
    scale = 1.0 if peer.spread is None else peer.spread(shape) / torch.Size(shape).numel()
    gradient = None if theirs[1] is None else theirs[1] * scale
    values = ours[0], theirs[0]
    if own.interior is not None and peer.interior is not None:
        values = own.interior(shape), peer.interior(shape)
    found = agreement((values[0], ours[1]), (values[1], gradient), margin)
    columns: dict[str, float | None] = {"gradient_cosine": found.cosine}
    if same:
        columns["value_difference"] = found.value
        columns |= {"gradient_difference": found.gradient, "gradient_largest": found.largest}
    return {name: value for name, value in columns.items() if value is not None}


def memory(name: str, who: str, shape: Shape) -> float:
    """Peak memory of one call above what lay there before it, MiB; runs in a process of its own."""
    contestant = next(each for each in CASES[name]().contestants if each.who == who)
    contestant.prepare(TINY)()
    call = contestant.prepare(shape)
    with peak_memory() as found:
        call()
    return found.mebibytes


def run(table: Table, names: Sequence[str], sizes: Sequence[Shape], threads: Sequence[int], quick: bool) -> None:
    """All rows that are not in the table yet; the largest size with all threads only, since peers take minutes with one."""
    for name in names:
        what = CASES[name]().what
        for shape in sizes:
            for count in threads:
                text = "x".join(map(str, shape))
                done = table.has(what=what, shape=text, threads=float(count))
                if done or (count == 1 and shape == SIZES[-1]):
                    continue
                place: Row = {"shape": text, "voxels": float(torch.Size(shape).numel()), "threads": float(count)}
                rounds, budget = (3, 5.0) if quick else (9, 10.0)
                for row in in_fresh_process(measure, name, shape, rounds, budget, threads=count):
                    peak = in_fresh_process(memory, name, str(row["who"]), shape, threads=count)
                    table.add({**row, **place, "memory_mib": peak})
                    print(shown({**row, **place, "memory_mib": peak}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], default=[])
    parser.add_argument("--quick", action="store_true", help="two sizes, two threads, few repetitions")
    parser.add_argument("--again", action="store_true", help="forget the rows of these cases first")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench"))
    asked = parser.parse_args()
    write_machine(asked.output)
    names = asked.cases or list(CASES)
    table = Table(asked.output / "metrics.csv", COLUMNS, KEY)
    if asked.again:
        table.forget("what", [CASES[name]().what for name in names])
    run(table, names, QUICK if asked.quick else SIZES, (2,) if asked.quick else (2, 1), asked.quick)


if __name__ == "__main__":
    main()
