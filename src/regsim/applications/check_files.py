"""From paths to a check, and from a check to a folder."""

import time
from pathlib import Path

import torch
from pydantic import Field

from regsim.applications.check import CheckResult, check_with
from regsim.applications.check_measure import CheckSettings
from regsim.applications.check_pictures import check_views
from regsim.applications.check_scores import drivers_beside, transform_beside
from regsim.errors import GridError, InputError
from regsim.evaluation.check_rows import CHECK, CheckResults
from regsim.evaluation.results import InputFile, Provenance
from regsim.images.formats import PICTURES, ending
from regsim.images.image import Image
from regsim.images.io import read_image, write_image
from regsim.output import check_folder, now, sha256, size_in_bytes, staged, versions, write_text
from regsim.report import write_check_page
from regsim.transforms.files import read_transform

MAPS = ("error_map", "error_lower", "error_upper", "unrelated")
STALE = ("views.npz", "run.json", *(f"{name}.nii.gz" for name in MAPS))
OTHERS = ("results.json", "landscape.json", "card.json", "sweep.json")


class CheckRequest(CheckSettings):
    """What `regsim check` was asked to do: the files, and how the pair is judged; see the command's help for each option."""

    fixed: Path
    moved: Path
    mask: Path | None = None
    labels: Path | None = None
    transform: Path | None = None
    spacing: float | None = Field(default=None, gt=0)
    seed: int = 0
    device: str = "cpu"


def check_files(asked: CheckRequest, folder: Path) -> CheckResults:
    """Read, check, and fill a folder: maps, `check.json`, `run.json`, `views.npz`, `report.html`.

    Raises:
        RegsimError: any input that cannot be used; nothing was written.
    """
    check_folder(folder)
    _refuse_others(folder)
    began, started = time.perf_counter(), now()
    torch.manual_seed(asked.seed)
    fixed = read_image(asked.fixed, mask=asked.mask, picture_spacing=asked.spacing)
    moved = _moved(asked, fixed)
    if asked.transform is None and moved.grid.same_as(fixed.grid):
        asked = asked.model_copy(update={"transform": transform_beside(asked.moved)})
    found = check_with(
        settings_of(asked),
        fixed,
        moved,
        labels=None if asked.labels is None else _labels(asked.labels, fixed),
        transform=None if asked.transform is None else read_transform(asked.transform, fixed.ndim),
        device=asked.device,
    )
    roles = ("fixed", "moved", "mask", "labels", "transform", "calibration")
    inputs = [(role, path) for role in roles if (path := getattr(asked, role)) is not None]
    if asked.model and Path(asked.model).is_dir():
        inputs.append(("model", Path(asked.model)))
    run = Provenance(
        command="check",
        settings=asked.model_dump(mode="json", exclude={*roles, "seed", "device"}),
        seed=asked.seed,
        device=asked.device,
        threads=torch.get_num_threads(),
        versions=versions(),
        inputs=[
            InputFile(role=role, name=path.name, sha256=sha256(path), size=size_in_bytes(path)) for role, path in inputs
        ],
        started=started,
        seconds=time.perf_counter() - began,
    )
    return write_check(found, folder, run)


def settings_of(asked: CheckRequest) -> CheckSettings:
    """How the pair is judged; the driver is looked up beside the moved image where none is named."""
    driver = asked.driver or drivers_beside(asked.moved)
    return CheckSettings.checked(
        {**{name: getattr(asked, name) for name in CheckSettings.model_fields}, "driver": driver}
    )


def write_check(found: CheckResult, folder: Path, run: Provenance) -> CheckResults:
    """Write the folder: all files together once they are whole, `check.json` last but for the page."""
    files = {name: f"{name}.nii.gz" for name in MAPS}
    results = found.results.model_copy(update={"files": files})
    views = check_views(found)
    with staged(folder, (CHECK, "report.html"), STALE) as part:
        maps = (found.error_map, found.lower, found.upper, found.unrelated)
        for image, name in zip(maps, files.values(), strict=True):
            write_image(image, part / name)
        views.save(part / "views.npz")
        write_text(part / "run.json", run.model_dump_json(indent=1))
        write_text(part / CHECK, results.to_json() + "\n")
        write_check_page(part)
    return results


def remove_check(folder: Path) -> None:
    """Remove what an earlier check left in a folder, the results first; anything else in it stays."""
    for name in (CHECK, "report.html", "run.json", "views.npz", *(f"{each}.nii.gz" for each in MAPS)):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _refuse_others(folder: Path) -> None:
    """The page and `run.json` of another command must not be overwritten."""
    for name in OTHERS:
        if (folder / name).is_file():
            raise InputError(f"'{folder}' holds the results of another command ({name}); give another -o")


def _moved(asked: CheckRequest, fixed: Image) -> Image:
    """The moved image; where it lies on the fixed grid, values outside the mask need not be finite."""
    if asked.mask is None:
        return read_image(asked.moved, picture_spacing=asked.spacing)
    try:
        masked = read_image(asked.moved, mask=asked.mask, picture_spacing=asked.spacing)
    except GridError:
        return read_image(asked.moved, picture_spacing=asked.spacing)
    return Image(masked.data, masked.grid, name=masked.name)


def _labels(path: Path, fixed: Image) -> Image:
    """Labels on the fixed grid; a picture takes its spacing."""
    flat = fixed.grid.unit == "px" or (path.is_file() and ending(path) in PICTURES)
    found = read_image(path, labels=True, spacing=fixed.grid.spacing if flat else None)
    same = flat and found.grid.size == fixed.grid.size
    return Image(found.data, fixed.grid, name=found.name) if same else found
