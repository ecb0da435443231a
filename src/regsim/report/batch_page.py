"""The page of a batch: one line a pair, the worst first, with a small picture and the way to its own page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup
from pydantic import ValidationError

from regsim.errors import InputError
from regsim.evaluation.batch_rows import THUMBNAIL, BatchResults, PairRow
from regsim.evaluation.results import Provenance
from regsim.output import write_text
from regsim.report import page, wording

RESULTS_NAME = "results.json"


@dataclass(frozen=True)
class Line:
    """One line of the table: what is shown of a pair. `sort`: by column, what a browser sorts by."""

    row: PairRow
    page: str
    picture: str
    change: str
    tone: wording.Tone
    sort: dict[str, float | None]


def write_batch_page(folder: Path, target: Path | None = None) -> Path:
    """Write the page of one folder of `regsim register --pairs` and return where it lies.

    Raises:
        InputError: `results.json` is missing or is not what a batch wrote.
    """
    results = _read(folder / RESULTS_NAME)
    notes: list[str] = []
    provenance = page.optional(folder / "run.json", page.read_provenance, notes)
    target = folder / page.PAGE_NAME if target is None else target
    write_text(target, render_batch_page(results, provenance, notes))
    return target


def render_batch_page(results: BatchResults, provenance: Provenance | None = None, notes: Sequence[str] = ()) -> str:
    """The whole page as text. It shows the picture files beside it; everything else is inside."""
    script = page.asset("batch.js")
    return page.environment().get_template("batch.html.j2").render(
        results=results,
        provenance=provenance,
        notes=notes,
        tiles=_tiles(results),
        lines=[_line(row) for row in results.worst_first()],
        judges=sorted({row.metric for row in results.pairs if row.metric}),
        deformable=any(not math.isnan(row.folded) for row in results.pairs),
        style=Markup(page.asset("style.css")),  # ours, not a user's
        script=Markup(script),
        script_hash=page.script_hash(script),
    )  # fmt: skip


def _line(row: PairRow) -> Line:
    place = quote(row.folder)
    return Line(
        row=row,
        page=f"{place}/{page.PAGE_NAME}" if place else "",
        picture=f"{place}/{THUMBNAIL}" if place else "",
        change="" if math.isnan(row.gain) else ("+" if row.gain > 0 else "") + wording.number(row.gain),
        tone=wording.compare(row.before, row.after, row.higher_is_better),
        sort={name: _known(getattr(row, name)) for name in ("gain", "before", "after", "overlap", "folded", "seconds")},
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _tiles(results: BatchResults) -> list[wording.Tile]:
    failed, total = len(results.failed()), len(results.pairs)
    gains = [row.gain for row in results.pairs if not math.isnan(row.gain)]
    worse = sum(gain < 0 for gain in gains)
    kept = f"{results.kept} of them in an earlier run" if results.kept else ""
    tiles = [
        wording.Tile("Registered", f"{total - failed} of {total}", kept, "same" if failed else "better"),
        wording.Tile("Failed", str(failed), "the table says why" if failed else "", "worse" if failed else "same"),
    ]
    if gains:
        note = "look at these first" if worse else ""
        tiles.append(wording.Tile("Metric got worse", str(worse), note, "worse" if worse else "same"))
    work = f"{results.workers} process{'' if results.workers == 1 else 'es'}"
    tiles.append(wording.Tile("Time", wording.duration(results.seconds), work))
    return tiles


def _read(path: Path) -> BatchResults:
    if not path.is_file():
        raise InputError(
            f"{path}: expected the results of a batch, found no such file; run `regsim register --pairs` first"
        )
    try:
        return BatchResults.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: not the results of a batch: {page.first_mistake(error)}") from error
