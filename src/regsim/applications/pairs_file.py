"""The list of pairs of a batch: a CSV file, checked as a whole before any pair is touched."""

import csv
import io
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from regsim.errors import InputError

OWN = ("fixed_mask", "moving_mask", "fixed_exclude", "moving_exclude", "initial")
NEEDED, OPTIONAL = ("fixed", "moving"), (*OWN, "name", "subject", "set", "licence")
LONGEST_NAME = 120
FORBIDDEN = set('/\\:*?"<>|')
TAKEN = {"pairs.csv", "results.json", "run.json", "report.html"}


@dataclass(frozen=True)
class PairFiles:
    """One line of the list; paths as they can be opened from here."""

    name: str
    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_exclude: Path | None = None
    moving_exclude: Path | None = None
    initial: Path | None = None
    subject: str = ""
    data_set: str = ""
    licence: str = ""


def read_pairs_file(path: Path) -> list[PairFiles]:
    """Read a CSV with columns fixed, moving and, if any, name, subject, set, licence, initial, masks and regions to exclude.

    Convention:
        Paths are relative to the CSV's folder. A pair without a name is called by its place in the list (`pair_0001`). Other
        columns are ignored, unless their name is nearly one of these.

    Raises:
        InputError: no such file, not a table, a column or a value that is missing, no line, a name that is given twice or
            that cannot name a folder. Whether the images exist is not looked at.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns, lines = list(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        raise InputError(f"'{path}': no such file; expected a CSV with columns fixed, moving") from None
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"'{path}': cannot be read as a table of pairs ({type(problem).__name__})") from None
    _check_columns(path, columns)
    if not lines:
        raise InputError(f"'{path}': holds no pair; expected one line a pair below the column names")
    pairs = [_pair(path, number, line) for number, line in enumerate(lines, start=1)]
    _check_names(path, [pair.name for pair in pairs])
    return pairs


def _check_columns(path: Path, columns: list[str]) -> None:
    for name in NEEDED:
        if name not in columns:
            raise InputError(
                f"'{path}': no column '{name}'; expected {', '.join(NEEDED)} and, if any, {', '.join(OPTIONAL)}, "
                f"got {', '.join(columns) or 'nothing'}"
            )
    for name in columns:
        near = get_close_matches(name.strip().lower().replace(" ", "_"), OPTIONAL, n=1, cutoff=0.8)
        if near and name not in OPTIONAL:
            raise InputError(f"'{path}': unknown column '{name}'; did you mean '{near[0]}'?")


def _pair(path: Path, number: int, line: dict[str, str | None]) -> PairFiles:
    """One line; `number` counts pairs from 1."""
    values = {column: (line.get(column) or "").strip() for column in (*NEEDED, *OPTIONAL)}
    if None in line:
        raise InputError(f"'{path}', pair {number}: more cells than columns; put names with a comma in quotes")
    for column in NEEDED:
        if not values[column]:
            raise InputError(f"'{path}', pair {number}: {column} is empty")

    def place(column: str) -> Path | None:
        return path.parent / values[column] if values[column] else None

    return PairFiles(
        name=values["name"] or f"pair_{number:04d}",
        fixed=path.parent / values["fixed"],
        moving=path.parent / values["moving"],
        subject=values["subject"],
        data_set=values["set"],
        licence=values["licence"],
        **{column: place(column) for column in OWN},
    )


def _check_names(path: Path, names: list[str]) -> None:
    """Every name must be able to be a folder of its own, also where a file system does not tell cases apart."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        wrong = FORBIDDEN & set(name) or name.startswith(".") or name.endswith(".") or not name.isprintable()
        if wrong or len(name) > LONGEST_NAME or name.lower() in TAKEN:
            raise InputError(f"'{path}', pair {number}: the name '{name[:LONGEST_NAME]}' cannot be a folder's")
        if name.lower() in seen:
            raise InputError(
                f"'{path}': the name '{name}' is given twice, to pairs {seen[name.lower()]} and {number}; "
                "each pair needs its own"
            )
        seen[name.lower()] = number
