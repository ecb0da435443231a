"""The page of one registration: a results folder in, one HTML file out that opens without a network."""

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile, is_zipfile

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from regsim.errors import InputError
from regsim.evaluation.results import Provenance, RegistrationResults, Views
from regsim.output import write_text
from regsim.report import figures, pictures, wording

PAGE_NAME = "report.html"
Content = TypeVar("Content")


def write_registration_page(folder: Path, target: Path | None = None) -> Path:
    """Write the page of one results folder and return where it lies.

    Args:
        folder: holds `results.json`; `run.json` and `views.npz` where the run left them.
        target: the page to write; `report.html` in the folder unless given.

    Raises:
        InputError: `results.json` is missing or is not what a registration wrote.
    """
    results = read_results(folder / "results.json")
    notes: list[str] = []
    provenance = optional(folder / "run.json", read_provenance, notes)
    views = optional(folder / "views.npz", _read_views, notes)
    results = results.model_copy(update={"notes": [*results.notes, *notes]})
    page = render_registration_page(results, provenance, views)
    target = folder / PAGE_NAME if target is None else target
    write_text(target, page)
    return target


def read_results(path: Path) -> RegistrationResults:
    """Read `results.json`; a file that is missing or of another kind is one clear line."""
    if not path.is_file():
        raise InputError(
            f"{path}: expected the results of a registration, found no such file; run `regsim register` first"
        )
    try:
        return RegistrationResults.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: not the results of a registration: {first_mistake(error)}") from error


def render_registration_page(
    results: RegistrationResults, provenance: Provenance | None = None, views: Views | None = None
) -> str:
    """The whole page as text. Without `views` it has no pictures, without `provenance` no versions and inputs."""
    views = Views([], {}) if views is None else views
    planes = _planes(results, views)
    return environment().get_template("registration.html.j2").render(
        results=results,
        provenance=provenance,
        planes=planes,
        skipped=[plane.name for plane in views.planes if plane.name not in {shown.name for shown in planes}],
        outcome=wording.outcome(results),
        tiles=wording.tiles(results),
        convergence=_convergence(results),
        jacobian=_jacobian(views),
        grids=_grids(views),
        style=Markup(asset("style.css")),  # ours, not a user's
        script=Markup(asset("viewer.js")),
        script_hash=script_hash(asset("viewer.js")),
    )  # fmt: skip


def _planes(results: RegistrationResults, views: Views) -> list[pictures.PlanePictures]:
    made = [pictures.plane_pictures(plane, views, results.unit) for plane in views.planes]
    return [plane for plane in made if plane is not None]


def _convergence(results: RegistrationResults) -> dict[str, str]:
    """The convergence plot for a light and a dark page; empty where no step was recorded."""
    if not results.steps:
        return {}
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    return {
        name: pictures.data_uri(figures.convergence(results.steps, results.levels, results.unit, theme), "svg+xml")
        for name, theme in themes.items()
    }


def _jacobian(views: Views) -> dict[str, object]:
    """The Jacobian map of every plane that has one, with the one colour scale that they share."""
    stacks = {}
    for plane in views.planes:
        stack, fixed = views.stack(plane.name, "jacobian"), views.stack(plane.name, "fixed")
        if stack is not None and fixed is not None and stack.ndim == 3 and stack.shape == fixed.shape and stack.size:
            stacks[plane.name] = (stack, fixed)
    if not stacks:
        return {}
    limit = figures.jacobian_limit([stack for stack, _ in stacks.values()])
    maps = []
    for name, (stack, fixed) in stacks.items():
        index = figures.slice_of_interest(stack)
        uri = pictures.data_uri(figures.jacobian_map(stack[index], fixed[index], limit))
        maps.append({"plane": name, "slice": index + 1, "slices": len(stack), "uri": uri})
    colours, marks = figures.jacobian_scale(limit)
    return {"maps": maps, "colours": colours, "marks": marks, "folded": figures.FOLDED}


def _grids(views: Views) -> list[dict[str, object]]:
    """The warped grid of every plane that has one, on its middle slice."""
    made: list[dict[str, object]] = []
    for plane in views.planes:
        grid, after = views.stack(plane.name, "grid"), views.stack(plane.name, "after")
        if grid is None or after is None or grid.ndim != 4 or not grid.size:
            continue
        if grid.shape != (len(after), 2, *after.shape[1:]):
            continue
        index = len(grid) // 2
        uri = pictures.data_uri(figures.warped_grid(grid[index], after[index]))
        made.append({"plane": plane.name, "slice": index + 1, "slices": len(grid), "uri": uri})
    return made


def script_hash(script: str) -> str:
    """What lets a browser run this script and no other."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def environment() -> Environment:
    """Templates that escape everything and refuse unknown names."""
    loader = PackageLoader("regsim.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    words: dict[str, Callable[..., str]] = {
        "number": wording.number,
        "share": wording.share,
        "duration": wording.duration,
    }
    environment.filters.update(words)
    environment.globals["compare"] = wording.compare
    return environment


@cache
def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return files("regsim.report").joinpath("templates", name).read_text(encoding="utf-8")


def optional(path: Path, read: Callable[[Path], Content], notes: list[str]) -> Content | None:
    """Read a file that the page can do without; one that is there but broken leaves a note."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        what = first_mistake(error) if isinstance(error, ValidationError) else type(error).__name__
        notes.append(f"{path.name} could not be read ({what}); the page leaves out what it holds.")
        return None


def read_provenance(path: Path) -> Provenance:
    """Read `run.json`."""
    return Provenance.model_validate_json(path.read_bytes())


def _read_views(path: Path) -> Views:
    check_archive(path)
    return Views.load(path)


def check_archive(path: Path) -> None:
    """Refuse a truncated archive, because numpy leaves one open."""
    if not is_zipfile(path):
        raise BadZipFile(f"{path.name} is cut short")


def first_mistake(error: ValidationError) -> str:
    """What was wrong first, and where."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
