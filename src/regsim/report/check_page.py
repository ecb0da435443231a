"""The page of one check: a folder of `regsim check` in, one HTML file out that opens without a network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from regsim.evaluation.check_rows import CHECK, CheckResults, PlaceRow, RegionRow
from regsim.evaluation.results import Plane, Provenance, Views
from regsim.output import write_text
from regsim.report import check_figures, figures, page, pictures, wording

SCALE_END = 1.5
MAPS = {"error": "Expected error", "lower": "Lower bound", "upper": "Upper bound"}


@dataclass(frozen=True)
class Bar:
    """Where an interval and its middle lie on a scale, in percent of its width. `marks`: pass and fail."""

    low: float
    high: float
    middle: float
    marks: tuple[float, float]
    end: str


@dataclass(frozen=True)
class ShownPlace:
    """One of the worst places: its row and its pictures with captions."""

    row: PlaceRow
    where: str
    pictures: list[tuple[str, str]]


def write_check_page(folder: Path, target: Path | None = None) -> Path:
    """Write the page of one folder of `regsim check` and return where it lies.

    Raises:
        InputError: `check.json` is missing or is not what a check wrote.
    """
    results = CheckResults.of_json(folder / CHECK)
    notes: list[str] = []
    provenance = page.optional(folder / "run.json", page.read_provenance, notes)
    views = page.optional(folder / "views.npz", _read_views, notes)
    results = results.model_copy(update={"notes": (*results.notes, *notes)})
    target = folder / page.PAGE_NAME if target is None else target
    write_text(target, render_check_page(results, provenance, views))
    return target


def render_check_page(results: CheckResults, provenance: Provenance | None = None, views: Views | None = None) -> str:
    """The whole page as text. Without `views` it has no pictures, without `provenance` no versions and inputs."""
    views = Views([], {}) if views is None else views
    script = page.asset("viewer.js")
    return page.environment().get_template("check.html.j2").render(
        results=results,
        provenance=provenance,
        scale=bar(results, results.interval, results.expected_error),
        rows=[(row, bar(results, row.interval, row.expected), volume(row, results)) for row in results.regions],
        planes=[shown for plane in views.planes if (shown := viewer_plane(plane, views, results.unit)) is not None],
        maps={title: _maps(views, kind, results) for kind, title in MAPS.items()},
        colours=check_figures.colour_bar(),
        marks=[results.limits.largest * part / 5 for part in range(6)],
        places=[_place(results, views, number) for number in range(len(results.places))],
        histogram=_themed(lambda theme: check_figures.histogram(results, theme)),
        reliability=_reliability(results),
        folding=folding_sentence(results),
        style=Markup(page.asset("style.css") + page.asset("check.css")),  # ours, not a user's
        script=Markup(script),
        script_hash=page.script_hash(script),
    )  # fmt: skip


def bar(results: CheckResults, interval: tuple[float, float], middle: float) -> Bar:
    """An interval on the scale of the whole check, from 0 to beyond the fail limit."""
    limits = results.limits
    uppers = [results.interval[1], *(row.interval[1] for row in results.regions)]
    end = max(SCALE_END * limits.fail_at, min(limits.largest, max(uppers)))
    low, high, centre, *marks = (
        100 * min(value, end) / end for value in (*interval, middle, limits.pass_at, limits.fail_at)
    )
    return Bar(low, high, centre, (marks[0], marks[1]), f"{end:.3g}")


def volume(row: RegionRow, results: CheckResults) -> str:
    """The size of a region: cm³ for what has mm³.

    Areas and pixels are given as they are.
    """
    if results.volume_unit == "mm3":
        return f"{wording.number(row.volume / 1000)} cm³"
    return f"{wording.number(row.volume)} {results.volume_unit.replace('2', '²').replace('3', '³')}"


def folding_sentence(results: CheckResults) -> str:
    """What the Jacobian determinant says; empty without a transform."""
    row = results.jacobian
    if row is None:
        return ""
    if row.folded_fraction == 0:
        return f"Nothing folds: volumes change by factors of {wording.number(row.minimum)} to {wording.number(row.maximum)}."
    return f"The transform folds {wording.share(row.folded_fraction)} of the mask, which no tissue can do."


def position(value: float, unit: str) -> str:
    """Where a slice lies.

    >>> position(-12.04, "mm")
    '−12.0 mm'
    """
    return f"{round(value, 1) + 0.0:.1f} {unit}".replace("-", wording.MINUS)


def viewer_plane(plane: Plane, views: Views, unit: str) -> pictures.PlanePictures | None:
    """The stacks of one plane for the viewer, or None where they are not there or differ in shape."""
    found = {kind: views.stack(plane.name, kind) for kind in ("fixed", "moved")}
    stacks = {kind: stack.astype(np.uint8) for kind, stack in found.items() if stack is not None and stack.ndim == 3}
    if len(stacks) < 2 or stacks["fixed"].shape != stacks["moved"].shape or 0 in stacks["fixed"].shape:
        return None
    count, height, width = stacks["fixed"].shape
    if len(plane.positions) != count:
        return None
    middle = count // 2
    return pictures.PlanePictures(
        name=plane.name,
        edges={"left": plane.left, "right": plane.right, "top": plane.top, "bottom": plane.bottom},
        width=width,
        height=height,
        positions=[position(each, unit) for each in plane.positions],
        middle=middle,
        edge_limit=pictures.edge_limit(stacks["fixed"][middle]),
        sprites={kind: pictures.data_uri(pictures.sprite(stack)) for kind, stack in stacks.items()},
        static={},
    )


def _maps(views: Views, kind: str, results: CheckResults) -> list[dict[str, object]]:
    """One map in every plane through the worst place."""
    made: list[dict[str, object]] = []
    for plane in views.planes:
        fixed, values, odd = (views.stack(plane.name, f"map_{name}") for name in ("fixed", kind, "unrelated"))
        if fixed is None or values is None or odd is None or not fixed.shape == values.shape == odd.shape:
            continue
        pixels = check_figures.error_over(fixed, values, odd, results.limits.largest)
        at = views.stack(plane.name, "map_position")
        where = f", {position(float(at), results.unit)}" if at is not None and len(plane.positions) > 1 else ""
        edges = {"left": plane.left, "right": plane.right, "top": plane.top, "bottom": plane.bottom}
        shape = fixed.shape[1] / fixed.shape[0]
        made.append({"plane": plane.name, "where": where, "uri": _uri(pixels), "edges": edges, "shape": shape})
    return made


def _place(results: CheckResults, views: Views, number: int) -> ShownPlace:
    row, name = results.places[number], f"place{number}"
    where = ", ".join(wording.number(value) for value in row.point)
    fixed, moved, error, odd = (views.stack(name, kind) for kind in ("fixed", "moved", "error", "unrelated"))
    if fixed is None or moved is None or error is None or odd is None:
        return ShownPlace(row, where, [])
    shown = check_figures.crops(fixed, moved)
    shown.append(("expected error", check_figures.error_over(fixed, error, odd, results.limits.largest)))
    return ShownPlace(row, where, [(caption, _uri(pixels)) for caption, pixels in shown])


def _uri(pixels: check_figures.Pixels) -> str:
    return pictures.data_uri(pictures.png(pixels))


def _reliability(results: CheckResults) -> dict[str, str] | None:
    """None where the calibration holds no curve."""
    if not any(len(points) > 1 for points in results.trust.reliability.values()):
        return None
    return _themed(lambda theme: check_figures.reliability(results, theme))


def _themed(draw: Callable[[figures.Theme], bytes]) -> dict[str, str]:
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    return {name: pictures.data_uri(draw(theme), "svg+xml") for name, theme in themes.items()}


def _read_views(path: Path) -> Views:
    page.check_archive(path)
    return Views.load(path)
