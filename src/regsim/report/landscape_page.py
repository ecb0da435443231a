"""The page of a landscape: a results folder in, one HTML file out that opens without a network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from pydantic import ValidationError

from regsim.errors import InputError
from regsim.evaluation.landscape_rows import Criterion, LandscapeArrays, LandscapeResults, LandscapeRow
from regsim.evaluation.results import Provenance
from regsim.output import write_text
from regsim.report import figures, landscape_figures, page, pictures, wording

RESULTS_NAME = "landscape.json"
NUISANCES = ("noise_", "blur_", "gamma_", "inversion_", "asymmetry")
PARTS = (
    ("Order and detection", "Does the value follow the true error?", ("spearman", "auc")),
    (
        "Shape",
        "Would an optimiser find the truth, and stay there?",
        ("minima", "capture", "offset", "balance", "delta"),
    ),
    ("What else moves the value", "How much misalignment does each change look like?", NUISANCES),
    ("Expense", "On the machine and threads named below.", ("seconds", "times_mse", "memory_mb")),
)


@dataclass(frozen=True)
class Cell:
    """One figure of the league table: its text, its interval, and whether it is the best of its column."""

    text: str
    interval: str
    best: bool


@dataclass(frozen=True)
class Part:
    """One table: some criteria of all metrics."""

    title: str
    question: str
    columns: list[Criterion]
    lines: list[tuple[str, list[Cell]]]


def write_landscape_page(folder: Path, target: Path | None = None) -> Path:
    """Write the page of one folder of `regsim landscape` and return where it lies.

    Raises:
        InputError: `landscape.json` is missing or is not what a landscape wrote.
    """
    results = _read(folder / RESULTS_NAME)
    notes: list[str] = []
    provenance = page.optional(folder / "run.json", page.read_provenance, notes)
    arrays = page.optional(folder / "landscape.npz", _read_arrays, notes) or LandscapeArrays({})
    results = results.model_copy(update={"notes": [*results.notes, *notes]})
    target = folder / page.PAGE_NAME if target is None else target
    write_text(target, render_landscape_page(results, provenance, arrays))
    return target


def render_landscape_page(results: LandscapeResults, provenance: Provenance | None, arrays: LandscapeArrays) -> str:
    """The whole page as text."""
    names = [row.metric for row in results.rows]
    return page.environment().get_template("landscape.html.j2").render(
        results=results,
        provenance=provenance,
        parts=_parts(results),
        tiles=_tiles(results),
        colours=[landscape_figures.colour(number) for number in range(len(names))],
        responses=_themed(lambda theme: landscape_figures.responses(results.curves, names, results.unit, theme)),
        nuisances=_themed(
            lambda theme: landscape_figures.nuisance_bars(results.nuisances, names, results.reach, results.unit, theme)
        ),
        images=_images(arrays, results.unit),
        metrics=[_metric(results, arrays, number) for number in range(len(names))],
        style=Markup(page.asset("style.css")),  # ours, not a user's
        script="",
        script_hash=page.script_hash(""),
    )  # fmt: skip


def _parts(results: LandscapeResults) -> list[Part]:
    columns = results.criteria()
    rows = sorted(results.rows, key=lambda row: -row["spearman"])
    made = []
    for title, question, prefixes in PARTS:
        own = [item for item in columns if item.name.startswith(prefixes)]
        best = {item.name: _best(rows, item) for item in own}
        lines = [(row.metric, [_cell(row, item, best[item.name]) for item in own]) for row in rows]
        made.append(Part(title, question, own, lines))
    return made


def _best(rows: Sequence[LandscapeRow], item: Criterion) -> str | None:
    """The text of the best value of a column; None where no value is best or all are alike."""
    told = [row[item.name] for row in rows if not math.isnan(row[item.name])]
    if item.best == "none" or len({_figure(value) for value in told}) < 2:
        return None
    if item.best == "one":
        return _figure(min(told, key=lambda value: abs(math.log(value)) if value > 0 else math.inf))
    return _figure(max(told) if item.best == "higher" else min(told))


def _cell(row: LandscapeRow, item: Criterion, best: str | None) -> Cell:
    text = _figure(row[item.name])
    ends = row.intervals.get(item.name)
    told = "" if ends is None else f"{_figure(ends[0])} to {_figure(ends[1])}"
    return Cell(text, told, text == best)


def _figure(value: float) -> str:
    """Three digits; counts and zeros stay short.

    >>> _figure(0.98765), _figure(0.0), _figure(12.0), _figure(math.nan)
    ('0.988', '0', '12', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else wording.number(value)


def _tiles(results: LandscapeResults) -> list[wording.Tile]:
    """The winners of what matters most."""
    tiles = []
    for item in results.criteria():
        if item.name in ("spearman", "spearman_hidden", "auc_1", "capture") and len(results.rows) > 1:
            told = [row for row in results.rows if not math.isnan(row[item.name])]
            if told:
                best = max(told, key=lambda row: row[item.name])
                value = f"{_figure(best[item.name])}{' ' + item.unit if item.unit else ''}"
                same = sum(_figure(row[item.name]) == _figure(best[item.name]) for row in told)
                also = f" and {same - 1} more" if same > 1 else ""
                tiles.append(wording.Tile(f"best {item.title}", best.metric, value + also))
    return tiles


def _themed(draw: Callable[[figures.Theme], bytes]) -> dict[str, str]:
    """A figure for a light and a dark page."""
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    return {name: pictures.data_uri(draw(theme), "svg+xml") for name, theme in themes.items()}


def _images(arrays: LandscapeArrays, unit: str) -> list[tuple[str, str]]:
    """Captions and pictures of the pair, aligned and misaligned."""
    fixed, aligned, moved = arrays.get("fixed"), arrays.get("aligned"), arrays.get("misaligned")
    if fixed is None or aligned is None or moved is None:
        return []
    before, after = (np.square(np.asarray(fixed, float) - np.asarray(m, float)) for m in (aligned, moved))
    high = float(np.quantile(after, 0.995))
    shown = [
        ("aligned: fixed green, moving magenta", landscape_figures.overlay(fixed, aligned)),
        (f"misaligned by 4 {unit} and 4 degrees", landscape_figures.overlay(fixed, moved)),
        ("squared difference, aligned", landscape_figures.picture(before, 0, high, "inferno")),
        ("squared difference, misaligned", landscape_figures.picture(after, 0, high, "inferno")),
    ]
    return [(caption, pictures.data_uri(pictures.png(pixels))) for caption, pixels in shown]


def _metric(results: LandscapeResults, arrays: LandscapeArrays, number: int) -> dict[str, object]:
    """The figures of one metric: captions and pictures."""
    row, unit, shown = results.rows[number], results.unit, []
    for group, title in (("surface", "Surface"), ("wide", "Wide surface")):
        costs, shifts, degrees = (arrays.get(f"{group}_{part}") for part in (number, "shifts", "degrees"))
        if costs is None or shifts is None or degrees is None:
            continue
        minima = arrays.get(f"{group}_minima_{number}")
        if group == "surface":
            shown.append(
                (f"{title}: cost, 0 lowest, 1 highest", landscape_figures.surface(costs, shifts, degrees, unit))
            )
        shown.append(
            (
                f"{title} from above; cross: the truth, rings: local minima",
                landscape_figures.contour(costs, shifts, degrees, unit, minima),
            )
        )
    errors, costs = arrays.get("ladder_errors"), arrays.get(f"ladder_{number}")
    if errors is not None and costs is not None:
        shown.append(("Random misalignments", landscape_figures.scatter(errors, costs, number, unit)))
    plots = [(caption, pictures.data_uri(content)) for caption, content in shown]
    return {
        "name": row.metric,
        "better": "higher" if row.higher_is_better else "lower",
        "plots": plots,
        "maps": _maps(arrays, number),
    }


def _maps(arrays: LandscapeArrays, number: int) -> list[tuple[str, str]]:
    """The metric's own map, aligned and misaligned, on one scale."""
    aligned, moved = arrays.get(f"map_aligned_{number}"), arrays.get(f"map_misaligned_{number}")
    if aligned is None or moved is None:
        return []
    both = np.concatenate([np.ravel(aligned), np.ravel(moved)]).astype(np.float64)
    low, high = np.nanquantile(both, [0.005, 0.995])
    return [
        (
            caption,
            pictures.data_uri(pictures.png(landscape_figures.picture(values, float(low), float(high), "inferno"))),
        )
        for caption, values in (("own map, aligned", aligned), ("own map, misaligned", moved))
    ]


def _read(path: Path) -> LandscapeResults:
    if not path.is_file():
        raise InputError(
            f"{path}: expected the results of a landscape, found no such file; run `regsim landscape` first"
        )
    try:
        return LandscapeResults.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: not the results of a landscape: {page.first_mistake(error)}") from error


def _read_arrays(path: Path) -> LandscapeArrays:
    page.check_archive(path)
    return LandscapeArrays.load(path)
