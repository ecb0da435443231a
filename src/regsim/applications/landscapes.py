"""From files to the folder of a landscape: tables, arrays, page."""

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import Field

from regsim.applications.files import read_pair
from regsim.errors import InputError, SettingsError
from regsim.evaluation.landscape import Landscape, LandscapePair, LandscapeSettings, landscape
from regsim.evaluation.landscape_rows import league_csv
from regsim.evaluation.results import InputFile, Provenance
from regsim.metrics import load_metric
from regsim.output import check_folder, now, sha256, size_in_bytes, staged, versions
from regsim.report.landscape_page import render_landscape_page
from regsim.report.page import PAGE_NAME
from regsim.settings import Settings

COLUMNS = ("fixed", "moving", "subject")
RESULTS, RUN = "landscape.json", "run.json"


class LandscapeRequest(Settings):
    """What `regsim landscape` was asked to do; see the command's help for each option."""

    fixed: Path | None = None
    moving: Path | None = None
    pairs: Path | None = None
    output: Path
    metrics: tuple[str, ...] = ()
    quick: bool = False
    noise: float = Field(default=0.0, ge=0)
    reach: float | None = Field(default=None, gt=0)
    spacing: float | None = Field(default=None, gt=0)
    seed: int = 0
    device: str = "cpu"


def landscape_files(asked: LandscapeRequest, advance: Callable[[int, int], None] | None = None) -> Landscape:
    """Read, judge, and write the folder.

    Raises:
        RegsimError: any input that cannot be used; nothing was written.
    """
    began, started = time.perf_counter(), now()
    check_folder(asked.output)
    metrics = [load_metric(spec) for spec in asked.metrics]
    labels = list(asked.metrics) or None
    files = _files(asked)
    pairs = [_pair(fixed, moving, subject, asked.spacing) for fixed, moving, subject in files]
    changes = {"noise": asked.noise, "seed": asked.seed} | ({} if asked.reach is None else {"reach": asked.reach})
    settings = LandscapeSettings.preset(pairs[0].fixed.ndim, asked.quick, **changes)
    del metrics  # they were loaded to refuse a wrong name before any image is read
    title = f"Landscape of {pairs[0].name}" if len(pairs) == 1 else f"Landscape over {len(pairs)} pairs"
    found = landscape(pairs, labels, settings, device=asked.device, advance=advance, title=title)
    inputs = [
        (f"{role} {subject}", path)
        for fixed, moving, subject in files
        for role, path in (("fixed", fixed), ("moving", moving))
    ]
    write_landscape(
        found, asked.output, "landscape", settings, inputs, asked.device, started, time.perf_counter() - began
    )
    return found


def write_landscape(
    found: Landscape,
    folder: Path,
    command: str,
    settings: LandscapeSettings,
    inputs: Sequence[tuple[str, Path]] = (),
    device: str = "cpu",
    started: str = "",
    seconds: float = 0.0,
) -> None:
    """Write `landscape.csv`, `responses.csv`, `landscape.json`, `landscape.npz`, `run.json` and `report.html`, in one go."""
    run = Provenance(
        command=command,
        settings={name: list(v) if isinstance(v, tuple) else v for name, v in settings.model_dump().items()},
        seed=settings.seed,
        device=device,
        threads=torch.get_num_threads(),
        versions=versions(),
        inputs=[InputFile(role=r, name=p.name, sha256=sha256(p), size=size_in_bytes(p)) for r, p in inputs],
        started=started or now(),
        seconds=seconds or found.results.seconds,
    )
    with staged(folder, last=(RESULTS, RUN)) as part:
        (part / "landscape.csv").write_text(league_csv(found.results), encoding="utf-8")
        (part / "responses.csv").write_text(_responses(found), encoding="utf-8")
        found.arrays.save(part / "landscape.npz")
        (part / RESULTS).write_text(found.results.model_dump_json(indent=1), encoding="utf-8")
        (part / RUN).write_text(run.model_dump_json(indent=1), encoding="utf-8")
        (part / PAGE_NAME).write_text(render_landscape_page(found.results, run, found.arrays), encoding="utf-8")


def _responses(found: Landscape) -> str:
    stream = io.StringIO(newline="")
    writer = None
    for row in found.responses():
        values = {name: f"{v:.8g}" if isinstance(v, float) else v for name, v in row}
        if writer is None:
            writer = csv.DictWriter(stream, list(values), lineterminator="\n")
            writer.writeheader()
        writer.writerow(values)
    return stream.getvalue()


def _files(asked: LandscapeRequest) -> list[tuple[Path, Path, str]]:
    """Fixed, moving and subject of every pair."""
    if asked.pairs is None:
        if asked.fixed is None or asked.moving is None:
            raise SettingsError("give FIXED and MOVING, or --pairs FILE.csv with columns fixed, moving, subject")
        return [(asked.fixed, asked.moving, "1")]
    if asked.fixed is not None or asked.moving is not None:
        raise SettingsError("give either FIXED and MOVING, or --pairs, not both")
    return read_pairs(asked.pairs)


def read_pairs(path: Path) -> list[tuple[Path, Path, str]]:
    """A CSV with columns fixed, moving and (if any) subject; paths are relative to the CSV's folder.

    Raises:
        InputError: no such file, a column or a value that is missing, no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"'{path}': cannot be read as a table of pairs ({type(problem).__name__})") from None
    reader = csv.DictReader(io.StringIO(text))
    missing = {"fixed", "moving"} - set(reader.fieldnames or ())
    if missing:
        raise InputError(f"'{path}': no column '{sorted(missing)[0]}'; expected {', '.join(COLUMNS)}")
    found = []
    for number, line in enumerate(reader, start=2):
        fixed, moving = (line.get("fixed") or "").strip(), (line.get("moving") or "").strip()
        if not (fixed and moving):
            raise InputError(f"'{path}', line {number}: fixed or moving is empty")
        found.append(
            (path.parent / fixed, path.parent / moving, (line.get("subject") or "").strip() or str(number - 1))
        )
    if not found:
        raise InputError(f"'{path}': holds no pair")
    return found


def _pair(fixed: Path, moving: Path, subject: str, spacing: float | None) -> LandscapePair:
    first, second = read_pair(fixed, moving, None, None, spacing)
    return LandscapePair(first, second, subject, f"{first.name} and {second.name}")
