"""Options that commands share, and what they do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from regsim.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from regsim.registration.log import StepLog

Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
Threads = Annotated[
    int, typer.Option("--threads", min=0, max=1024, help="CPU threads; 0 = as many as there are cores.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE|-", help="Results as JSON to a file, or - for standard output.")
]
Spacing = Annotated[
    float | None, typer.Option("--spacing", min=1e-6, help="Pixel size in mm of pictures that state none.")
]
FixedMask = Annotated[Path | None, typer.Option("--fixed-mask", help="Where the fixed image counts (above 0).")]
MovingMask = Annotated[
    Path | None, typer.Option("--moving-mask", help="Where the moving image can be trusted (above 0).")
]
FixedExclude = Annotated[
    Path | None, typer.Option("--fixed-exclude", help="What not to compare (above 0): lesion, implant, tear.")
]
MovingExclude = Annotated[Path | None, typer.Option("--moving-exclude", help="The same for the moving image.")]
Symmetric = Annotated[
    bool, typer.Option("--symmetric", help="diffeomorphic: judge both ways, so that neither image is preferred.")
]

DEVICES = ("auto", "cpu", "cuda")

errors = Console(stderr=True)


def prepare_machine(device: str, threads: int, json: str | None = None) -> str:
    """Check what can be checked before any work, set the number of threads; the device as torch calls it.

    Raises:
        SettingsError: an unknown device, or cuda where there is none.
        InputError: the JSON file cannot be written.
    """
    if device not in DEVICES:
        raise unknown_name("device", device, list(DEVICES))
    if json is not None and json != "-":
        from regsim.output import check_target

        check_target(Path(json))
    import torch

    from regsim.kernels.memory import keep_freed_memory

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device cuda: no GPU that torch can use was found; use --device cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def write_json(target: str | None, text: str) -> None:
    """JSON to a file (in one piece) or to standard output."""
    from regsim.output import write_text

    if target == "-":
        sys.stdout.write(text + "\n")
    elif target is not None:
        write_text(Path(target), text + "\n")


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A progress bar on standard error; nothing where that is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        bar.add_task(title, total=None)
        yield bar


def stepper(bar: Progress, total: int) -> "StepBar":
    """What the driver calls after every step."""
    return StepBar(bar, total)


class StepBar:
    """Moves the bar by one step, and says in which stage."""

    def __init__(self, bar: Progress, total: int):
        self.bar, self.task, self.place = bar, bar.task_ids[0], ("", -1)
        bar.update(self.task, total=total)

    def __call__(self, row: "StepLog") -> None:
        """One step was done."""
        self.bar.advance(self.task)
        if (row.stage, row.level) != self.place:
            self.place = (row.stage, row.level)
            self.bar.update(self.task, description=f"{row.stage.replace('_', ' ')}, level {row.level + 1}")
