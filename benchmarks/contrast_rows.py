"""What `benchmarks.contrasts` keeps on disk, and its progress bar."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.progress import Progress

from benchmarks.rows import Row, Table


class Stored:
    """The rows of a CSV file, looked up by their key; each new row is written at once."""

    def __init__(self, path: Path, key: Sequence[str], values: Sequence[str]):
        self.key = tuple(key)
        self.table = Table(path, (*key, *values), key)
        self.places = {self._place(row) for row in self.table.rows}

    def missing(self, names: Sequence[str], **place: str | int) -> list[str]:
        """Which metrics have no row at a place."""
        return [name for name in names if self._place({**place, "metric": name}) not in self.places]

    def add(self, row: Row) -> None:
        self.places.add(self._place(row))
        self.table.add(row)

    def errors(self) -> dict[tuple[str, ...], float]:
        """The true error of each pair that is there."""
        return {self._place(row)[:-1]: float(row["error"]) for row in self.table.rows}

    def _place(self, row: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(str(int(v)) if isinstance(v, float) else str(v) for v in (row[name] for name in self.key))


class Bar:
    """One progress bar over all subjects; `start(name)` says which, `step()` moves it."""

    def __init__(self, progress: Progress, total: int):
        self.progress, self.task = progress, progress.add_task("", total=total)

    def start(self, name: str) -> None:
        self.progress.update(self.task, description=name)

    def step(self) -> None:
        self.progress.advance(self.task)
