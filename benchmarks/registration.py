"""Registration beside the peers: `python -m benchmarks.registration [SET ...] [--quick] [--peers NAME ...] [-o DIR]`.

Every run is one fresh process: one pair, one contestant, two threads. Its row is appended to DIR/SET.csv as it comes; what
stands there is not run again, so sets can be split over calls and a stopped call taken up. A contestant that fails leaves a
row with the problem. ANTs SyNCC takes minutes a pair: with --quick it runs only where --peers names it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data import data_folder
from benchmarks.deformable_sets import DEFORMABLE_SETS
from benchmarks.linear_sets import LINEAR_SETS, search_means
from benchmarks.measuring import in_fresh_process
from benchmarks.rows import Row, Table, shown, write_machine
from benchmarks.sets import COLUMNS, KEY, Plan, Run

SETS = {**LINEAR_SETS, **DEFORMABLE_SETS}
QUICK_PEERS = ("SimpleITK", "ANTs SyN", "elastix", "convexAdam")
ALL_PEERS = (*QUICK_PEERS, "ANTs SyNCC", "FireANTs")


def run_one(name: str, data: Path, run: Run) -> Row:
    """One row; called in a process of its own."""
    return SETS[name].measure(data, run)


def run_set(name: str, data: Path, plan: Plan, table: Table) -> None:
    """All rows of a set that are not in its table."""
    for run in SETS[name].runs(plan, table, data):
        if table.has(case=run.case, who=run.who, threads=float(run.threads)):
            continue
        row: Row = {"set": name, "case": run.case, "who": run.who, "threads": float(run.threads)}
        try:
            row |= in_fresh_process(run_one, name, data, run, threads=run.threads, limit=SETS[name].limit)
        except RuntimeError as problem:
            row["problem"] = str(problem)
        row = {column: value for column, value in row.items() if value != ""}
        table.add(row)
        print(shown(row), flush=True)


def print_search(table: Table) -> None:
    """SimpleITK's settings by mean error, the fastest first among equals."""
    for who, (error, seconds) in sorted(search_means(table.rows).items(), key=lambda item: item[1]):
        print(f"{who:50s} mean error {error:7.3f} mm  {seconds:7.2f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=[[], *SETS], default=[])
    parser.add_argument("--quick", action="store_true", help="a few cases of each set")
    parser.add_argument(
        "--peers", nargs="*", help="who runs beside regsim, by whole names such as 'ANTs SyN'; default all"
    )
    parser.add_argument("--again", nargs="*", default=[], help="forget the rows of these contestants first")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench"))
    asked = parser.parse_args(arguments)
    data = data_folder()
    if data is None:
        print("no test images: set REGSIM_DATA to the folder that holds the sets; registration is not measured")
        return
    write_machine(asked.output)
    peers = asked.peers if asked.peers is not None else QUICK_PEERS if asked.quick else ALL_PEERS
    plan = Plan(asked.quick, tuple(peers))
    for name in asked.sets or SETS:
        table = Table(asked.output / f"{name}.csv", COLUMNS, KEY)
        if asked.again:
            table.forget("who", asked.again)
        print(f"{name}: {SETS[name].about}", flush=True)
        run_set(name, data, plan, table)
        if name == "rigid_search" and table.rows:
            print_search(table)


if __name__ == "__main__":
    main()
