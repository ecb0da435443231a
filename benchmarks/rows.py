"""Tables of measurements: CSV files that grow row by row, so that a run can be stopped, split and taken up again."""

import csv
import json
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

Row = dict[str, str | float]
DIGITS = 5
PACKAGES = (
    "regsim", "torch", "numba", "monai", "torchmetrics", "scikit-image", "simpleitk", "antspyx", "itk-elastix", "convexAdam",
    "fireants",
)  # fmt: skip


class Table:
    """A CSV file with fixed columns; rows are told apart by the columns of `key`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "t.csv"
    >>> Table(path, ("what", "seconds"), key=("what",)).add({"what": "a", "seconds": 0.123456789})
    >>> table = Table(path, ("what", "seconds"), key=("what",))
    >>> table.rows, table.has(what="a"), table.has(what="b")
    ([{'what': 'a', 'seconds': 0.12346}], True, False)
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]):
        self.path, self.columns, self.key = path, tuple(columns), tuple(key)
        self.rows = list(read_rows(path)) if path.is_file() else []

    def has(self, **key: str | float) -> bool:
        """Whether a row with these values of the key stands there."""
        wanted = [str(_number(str(key[name]))) for name in self.key]
        return any([str(_number(str(row.get(name, "")))) for name in self.key] == wanted for row in self.rows)

    def add(self, row: Row) -> None:
        """Append one row, rounded to five digits; an unknown column is an error."""
        unknown = set(row) - set(self.columns)
        if unknown:
            raise KeyError(f"{self.path.name}: no column {', '.join(sorted(unknown))}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns)
            if new:
                writer.writeheader()
            writer.writerow({name: _rounded(value) for name, value in row.items()})
        self.rows.append({name: _rounded(value) for name, value in row.items()})

    def forget(self, column: str, names: Sequence[str]) -> None:
        """Remove the rows whose `column` starts with one of the names, so that they are measured again."""
        self.rows = [row for row in self.rows if not str(row.get(column, "")).startswith(tuple(names))]
        if self.path.is_file():
            rows, self.rows = self.rows, []
            self.path.unlink()
            for row in rows:
                self.add(row)


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a table: numbers as numbers, empty cells left out."""
    with path.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            yield {name: _number(text) for name, text in line.items() if text}


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _rounded(value: str | float) -> str | float:
    return value if isinstance(value, str) else float(f"{value:.{DIGITS}g}")


def shown(row: Row) -> str:
    """One line for the terminal."""
    return "  ".join(f"{name}={value:.4g}" if isinstance(value, float) else str(value) for name, value in row.items())


def machine() -> dict[str, str]:
    """What the figures were measured on: processor, cores, memory, versions."""
    found = {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
    }
    found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    found["python"] = platform.python_version()
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_machine(folder: Path) -> None:
    """The description as `machine.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    if known.is_file():
        for line in known.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or "unknown"
