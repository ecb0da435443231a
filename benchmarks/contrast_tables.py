"""`summary.csv` of `benchmarks.contrasts`, and the same on the terminal."""

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from benchmarks.contrast_summary import POOLED, Summary, summarise
from benchmarks.rows import read_rows
from regsim.errors import InputError
from regsim.output import atomic_path

PAIRS_FILE, OPTIMUM_FILE, SUMMARY_FILE = "pairs.csv", "optimum.csv", "summary.csv"
HEADS = ("S", "1", "2", "w", "o")


def write_tables(folder: Path, sets: Sequence[str] = (), conditions: Sequence[str] = ()) -> list[Summary]:
    """Write `summary.csv` of a folder and print it, or only the sets and conditions that are named.

    Raises:
        InputError: nothing was measured there.
    """
    if not (folder / PAIRS_FILE).is_file():
        raise InputError(
            f"'{folder}' has no {PAIRS_FILE}: run `python -m benchmarks.contrasts measure -o {folder}` first"
        )
    optima = folder / OPTIMUM_FILE
    found = summarise(read_rows(folder / PAIRS_FILE), read_rows(optima) if optima.is_file() else ())
    names = [each.name for each in fields(Summary)]
    with atomic_path(folder / SUMMARY_FILE) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows([_cell(getattr(row, name)) for name in names] for row in found)
    shown = [
        row for row in found if row.set in (sets or [row.set]) and row.condition in (conditions or [row.condition])
    ]
    Console().print(rich_table(shown))
    return found


def rich_table(rows: Sequence[Summary]) -> RichTable:
    """For the terminal: a block for each set and condition, one line for each metric; intervals are in the file."""
    caption = "S: Spearman; 1, 2: AUC of 1 and 2 mm; w: Spearman within a person; o: offset, voxels; ±: sd over seeds"
    table = RichTable(title="Contrasts: known errors of persons that no training saw", caption=caption, pad_edge=False)
    table.add_column("pairs")
    table.add_column("metric", overflow="fold")
    for name in HEADS:
        table.add_column(name, justify="right", no_wrap=True)
    place: dict[tuple[int, str, str], None] = dict.fromkeys((row.dims, row.set, row.condition) for row in rows)
    for dims, set_name, condition in place:
        block = [row for row in rows if (row.dims, row.set, row.condition) == (dims, set_name, condition)]
        for number, row in enumerate(block):
            head = f"{dims}-D {set_name} {condition} ({row.pairs} of {row.persons})" if number == 0 else ""
            single = [_shown(row.spearman_within), _shown(row.offset)]
            pooled = [_with_spread(row, name) for name in POOLED if name != "twins_1"]
            metric = row.metric if row.seeds == 1 else f"{row.metric} ({row.seeds} seeds)"
            table.add_row(head, escape(metric), *pooled, *single)
        table.add_section()
    return table


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return f"{value:.5g}" if np.isfinite(value) else ""


def _shown(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else ""


def _with_spread(row: Summary, name: str) -> str:
    value = _shown(getattr(row, name))
    return f"{value}±{_shown(getattr(row, f'{name}_spread'))}" if row.seeds > 1 else value
