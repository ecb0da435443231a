"""The page of a sweep: curves over the weight, the table, and the pictures of all weights side by side."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from pydantic import ValidationError

from regsim.errors import InputError
from regsim.evaluation.results import Provenance, Views
from regsim.evaluation.sweep_rows import RESULTS, SweepResults, SweepRow
from regsim.output import write_text
from regsim.report import figures, page, pictures, sweep_figures, wording


@dataclass(frozen=True)
class WeightPictures:
    """One weight: pictures with captions, of one slice, and the page of its registration."""

    row: SweepRow
    page: str
    shown: list[tuple[str, str]]


def write_sweep_page(folder: Path, fresh: Path | None = None) -> Path:
    """Write the page of one folder of `regsim sweep` and return where it lies.

    Args:
        folder: holds the folders of the weights.
        fresh: where `sweep.json` and `run.json` lie and the page goes to; the folder itself unless given.

    Raises:
        InputError: `sweep.json` is missing or is not what a sweep wrote.
    """
    fresh = folder if fresh is None else fresh
    results = _read(fresh / RESULTS)
    notes: list[str] = []
    provenance = page.optional(fresh / "run.json", page.read_provenance, notes)
    views = {row.folder: page.optional(folder / row.folder / "views.npz", _read_views, notes) for row in results.rows}
    results = results.model_copy(update={"notes": [*results.notes, *notes]})
    target = fresh / page.PAGE_NAME
    write_text(target, render_sweep_page(results, provenance, views))
    return target


def render_sweep_page(results: SweepResults, provenance: Provenance | None, views: dict[str, Views | None]) -> str:
    """The whole page as text. `views`: by the folder of each weight."""
    judge, limit = results.rows[0].judge, _limit(views)
    colours, marks = figures.jacobian_scale(limit)
    return page.environment().get_template("sweep.html.j2").render(
        results=results,
        provenance=provenance,
        chosen=next(row for row in results.rows if row.weight == results.recommended),
        judge="" if judge is None else judge.metric,
        tiles=_tiles(results),
        curves={
            name: pictures.data_uri(sweep_figures.panels(results, theme), "svg+xml")
            for name, theme in (("light", figures.LIGHT), ("dark", figures.DARK))
        },
        weights=_weights(results, views, limit),
        scale={"colours": colours, "marks": marks, "folded": figures.FOLDED},
        style=Markup(page.asset("style.css")),  # ours, not a user's
        script="",
        script_hash=page.script_hash(""),
    )  # fmt: skip


def _tiles(results: SweepResults) -> list[wording.Tile]:
    row = next(row for row in results.rows if row.weight == results.recommended)
    tiles = [
        wording.Tile("Recommended", f"{row.weight:g}", f"of {len(results.rows)} weights", "better"),
        wording.Tile(
            "Folded", wording.share(row.folded), "share of the foreground", "worse" if row.folded >= 0.001 else "same"
        ),
    ]
    if row.landmarks is not None:
        before = "" if results.landmarks_before is None else wording.length(results.landmarks_before, results.unit)
        tiles.append(wording.Tile("Landmark error", wording.length(row.landmarks, results.unit), f"{before} before"))
    if row.dice is not None:
        before = "" if results.dice_before is None else wording.number(results.dice_before)
        tiles.append(wording.Tile("Mean Dice", wording.number(row.dice), f"{before} before"))
    linear = f"{wording.duration(results.linear_seconds)} for the linear stages, done once"
    every = sum(one.seconds for one in results.rows) + results.linear_seconds
    return [*tiles, wording.Tile("Time of all", wording.duration(every), linear)]


def _weights(results: SweepResults, views: dict[str, Views | None], limit: float) -> list[WeightPictures]:
    """One plane, one slice and one colour scale for all weights, so that they can be compared."""
    return [
        WeightPictures(row, f"{row.folder}/{page.PAGE_NAME}", _pictures(views.get(row.folder), limit))
        for row in results.rows
    ]


def _limit(views: dict[str, Views | None]) -> float:
    """The end of the colour scale of all Jacobian maps."""
    shown = [found.stack(found.planes[0].name, "jacobian") for found in views.values() if found and found.planes]
    return figures.jacobian_limit([stack for stack in shown if stack is not None])


def _pictures(views: Views | None, limit: float) -> list[tuple[str, str]]:
    if views is None or not views.planes:
        return []
    plane = views.planes[0]
    stacks = pictures.grey_stacks(plane, views)
    if stacks is None:
        return []
    middle = len(stacks["fixed"]) // 2
    fixed, after = stacks["fixed"][middle], stacks["after"][middle]
    outlined = pictures.outlines(fixed, after, pictures.edge_limit(fixed))
    shown = [("edges of the fixed image over the moving one", pictures.png(outlined))]
    grid, jacobian = views.stack(plane.name, "grid"), views.stack(plane.name, "jacobian")
    if grid is not None and grid.shape == (len(stacks["after"]), 2, *after.shape):
        shown.append(("warped grid", figures.warped_grid(grid[middle], after)))
    if jacobian is not None and jacobian.shape == stacks["fixed"].shape:
        shown.append(("Jacobian determinant", figures.jacobian_map(jacobian[middle], fixed, limit)))
    return [(caption, pictures.data_uri(content)) for caption, content in shown]


def _read_views(path: Path) -> Views:
    page.check_archive(path)
    return Views.load(path)


def _read(path: Path) -> SweepResults:
    if not path.is_file():
        raise InputError(f"{path}: expected the results of a sweep, found no such file; run `regsim sweep` first")
    try:
        return SweepResults.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: not the results of a sweep: {page.first_mistake(error)}") from error
