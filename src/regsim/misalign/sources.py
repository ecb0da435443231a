"""Where pairs come from: subjects with one or more aligned contrasts, sections or labels, read from files or made up."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field

from regsim.errors import GridError, InputError, RegsimError
from regsim.images.examples import brain, brain_tissues
from regsim.images.formats import ENDINGS, PICTURES, ending
from regsim.images.grid import Grid
from regsim.images.image import Image
from regsim.images.io import read_image
from regsim.misalign.anatomy import random_shapes
from regsim.prepare import coarser, foreground, rescaled
from regsim.settings import Settings
from regsim.transforms.files import read_transform
from regsim.transforms.warp import warp

LABELS = "labels"
ALSO_LABELS = ("label", "seg", "dseg", "segmentation")
OTHER_LABELS = ("lesions", "tissues", "mask", "membrane", "classes")
COLUMNS = ("subject", "contrast", "path", "transform", "set", "licence")
MADE_UP, OWN = "made-up shapes", "made by regsim, free"
THICK = 1.5
DARK = 0.02
OnSubject = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """One anatomy: all its volumes lie on one grid of equal steps, in [0, 1].

    Args:
        name: unique; sessions of one person are named "person/session" and stay together in a split.
        images: contrast to `(Z, Y, X)`; a picture has Z = 1, a stack of sections one section per z.
        labels: `(Z, Y, X)`, int64, 0 = background; None where there are none.
        seen: `(Z, Y, X)` bool, where there is anatomy.
        axes: the array axes across which planes may be cut.
        steps: physical distance of neighbouring planes, for each array axis.
        empty_outside: nothing lies beyond the volume's borders (a stripped or fully imaged object on dark ground).
        data_set, licence: for the model card.
    """

    name: str
    images: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    seen: torch.Tensor
    axes: tuple[int, ...] = (0,)
    steps: tuple[float, float, float] = (1.0, 1.0, 1.0)
    empty_outside: bool = True
    data_set: str = ""
    licence: str = ""

    @property
    def person(self) -> str:
        """Who it is: the name up to a slash, so that several sessions of one person ("a/1", "a/2") stay together."""
        return self.name.partition("/")[0]

    @property
    def shape(self) -> torch.Size:
        """`(Z, Y, X)`."""
        return self.seen.shape


class SourceSettings(Settings):
    """What is read of the files.

    Args:
        spacing: voxel size to bring everything to, mm; pictures in pixels stay as they are.
        contrasts: which contrasts to read; all where none are named.
        shapes: made-up anatomies to add (they need no files).
        shape_size: their side, voxels.
    """

    spacing: float = Field(default=1.0, gt=0)
    contrasts: tuple[str, ...] = ()
    shapes: int = Field(default=0, ge=0, le=10_000)
    shape_size: int = Field(default=192, ge=16, le=1024)


@dataclass(frozen=True)
class _File:
    subject: str
    contrast: str
    path: Path
    transform: Path | None = None
    data_set: str = ""
    licence: str = ""


def bundled_subject(settings: SourceSettings) -> Subject:
    """The bundled brain: T1, two painted companions, tissue labels."""
    images = [replace(brain(contrast), name=contrast) for contrast in ("t1", "t2", "pd")]
    subject = make_subject("icbm152", images, brain_tissues(), settings.spacing)
    wanted = {name: image for name, image in subject.images.items() if name in (settings.contrasts or subject.images)}
    return replace(subject, images=wanted, data_set="ICBM152 2009a", licence="ICBM152 template, permissive")


def shape_subjects(count: int, size: int, dims: int, seed: int) -> list[Subject]:
    """Made-up anatomies: label maps of smooth random shapes, `size` voxels a side."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        labels = random_shapes(1, (size,) * dims, generator)[0, 0]
        labels = labels[None] if dims == 2 else labels
        axes = (0,) if dims == 2 else (0, 1, 2)
        made.append(Subject(f"shapes{number:04d}", {}, labels, labels > 0, axes, data_set=MADE_UP, licence=OWN))
    return made


def read_subjects(
    place: str | Path, settings: SourceSettings, on_subject: OnSubject = lambda _name: None
) -> list[Subject]:
    """Subjects of a folder or of a manifest; `on_subject(name)` is called before each is read.

    A manifest is a CSV file with the columns subject, contrast, path (relative to the manifest) and, where wanted, transform
    (an ITK file that resamples this contrast onto the subject's first one), set and licence. The contrast "labels" (also
    "label", "seg", "dseg", "segmentation") is a label map. In a folder, files are named SUBJECT_CONTRAST.nii.gz (or any other
    kind that can be read); a folder of pictures without such names is one stack of sections in the order of their names, and
    each of its subfolders is another.

    Raises:
        InputError: nothing to read, a file that cannot be read, a missing column.
        GridError: a label map, or a picture of a stack, of another grid.
    """
    place = Path(place)
    if place.is_file() and ending(place) in ENDINGS:
        raise InputError(f"data '{place}' is an image; give the folder that it lies in, or a manifest (CSV)")
    if place.is_file():
        return _grouped(_manifest(place), settings, f"manifest '{place}'", on_subject)
    if not place.is_dir():
        raise InputError(f"data '{place}': no such folder or manifest")
    files = sorted(file for file in place.iterdir() if ending(file) in ENDINGS and not file.name.startswith("."))
    named = [_named(file) for file in files]
    if files and all(ending(file) in PICTURES for file in files) and not _contrasts_repeat(named):
        on_subject(place.resolve().name)
        return [_stack(place.resolve().name, files)]
    if named:
        return _grouped(named, settings, f"data '{place}'", on_subject)
    folders = [folder for folder in sorted(place.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    stacks = [(folder.name, _pictures(folder)) for folder in folders]
    if not any(pictures for _, pictures in stacks):
        raise InputError(f"data '{place}': holds no images (files SUBJECT_CONTRAST.nii.gz, or folders of sections)")
    found = []
    for name, pictures in stacks:
        if pictures:
            on_subject(name)
            found.append(_stack(name, pictures))
    return found


def make_subject(name: str, images: Sequence[Image], labels: Image | None, spacing: float) -> Subject:
    """Bring aligned volumes to one grid of steps of about `spacing` and to [0, 1].

    Axes whose voxels are much larger than `spacing` (thick slices) stay as they are, and planes are cut across them only.

    Raises:
        GridError: labels of another grid than the first image.
        InputError: a constant image.
    """
    first = images[0] if images else labels
    if first is None:
        raise InputError(f"subject '{name}' has no image and no labels")
    if labels is not None and not labels.grid.same_as(first.grid):
        raise GridError(f"labels of '{name}' lie on another grid ({labels.grid}) than its images ({first.grid})")
    grid = _target_grid(first.grid, spacing)
    scaled = [rescaled(replace(image, mask=None)) for image in images]
    carried = [_on_grid(coarser(image, spacing), grid) for image in scaled]
    volumes = {image.name: _volume(image.data[0]) for image in carried}
    marks = None if labels is None else _volume(warp(labels, None, grid).data[0])
    seen = foreground(carried[0]).reshape(volumes[images[0].name].shape) if marks is None else marks > 0
    steps = (1.0,) * (3 - grid.ndim) + tuple(float(step) for step in grid.spacing[::-1])
    thick = tuple(axis for axis in range(3) if seen.shape[axis] == 1 or steps[axis] >= THICK * min(grid.spacing))
    return Subject(
        name=name,
        images=volumes,
        labels=marks,
        seen=seen,
        axes=thick[:1] or (0, 1, 2),
        steps=(steps[0], steps[1], steps[2]),
        empty_outside=all(dark_borders(volume) for volume in volumes.values()),
    )


def by_scale(subject: Subject, factor: int) -> Subject:
    """The subject with voxels `factor` times as large along every axis that has planes enough, as means of blocks; no labels.

    Its steps stay as they were: lengths of what is done to it count in voxels.
    """
    if factor == 1:
        return subject
    block = [factor if n >= factor else 1 for n in subject.shape]

    def means(volume: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(volume[None, None].float(), block)[0, 0]

    images = {name: means(volume) for name, volume in subject.images.items()}
    return replace(subject, images=images, labels=None, seen=means(subject.seen) > 0.5)


def _on_grid(image: Image, grid: Grid) -> Image:
    """Without a mask."""
    there = image if image.grid.same_as(grid) else warp(image, None, grid)
    return replace(there, mask=None)


def _target_grid(grid: Grid, spacing: float) -> Grid:
    if grid.unit == "px":
        return grid
    finest = max(spacing, min(grid.spacing))
    return grid.with_spacing(tuple(own if own >= THICK * finest else spacing for own in grid.spacing))


def _volume(data: torch.Tensor) -> torch.Tensor:
    """`(Z, Y, X)`: a picture becomes one plane."""
    return data if data.ndim == 3 else data[None]


def dark_borders(volume: torch.Tensor) -> bool:
    """Whether the outermost voxels of the axes that are imaged are (nearly all) dark."""
    faces = [
        volume.narrow(axis, at, 1) for axis in range(3) if volume.shape[axis] > 1 for at in (0, volume.shape[axis] - 1)
    ]
    return all(float((face > DARK).float().mean()) < DARK for face in faces)


def _named(file: Path) -> _File:
    """`SUBJECT_CONTRAST.ending`; without an underscore the whole name is the subject."""
    stem = file.name[: -len(ending(file))]
    subject, underscore, contrast = stem.rpartition("_")
    return _File(subject, _contrast(contrast), file) if underscore and subject else _File(stem, "image", file)


def _contrast(word: str) -> str:
    """In lower case; label maps by one name."""
    low = word.lower()
    return LABELS if low in ALSO_LABELS else low


def _contrasts_repeat(files: Iterable[_File]) -> bool:
    """Whether names speak of contrasts: some subject has two files, or some contrast has two subjects."""
    files = list(files)
    subjects, contrasts = (
        [file.subject for file in files],
        [file.contrast for file in files if file.contrast != "image"],
    )
    return len(set(subjects)) < len(subjects) or len(set(contrasts)) < len(contrasts)


def _manifest(path: Path) -> list[_File]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), {column.strip() for column in reader.fieldnames or ()}
            rows = [{(key or "").strip(): value for key, value in row.items()} for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"manifest '{path}' cannot be read: {problem}") from None
    missing = [column for column in COLUMNS[:3] if column not in columns]
    if missing:
        raise InputError(
            f"manifest '{path}': no column {', '.join(missing)}; expected comma-separated columns "
            f"{', '.join(COLUMNS[:3])} (and {', '.join(COLUMNS[3:])} where wanted)"
        )
    if not rows:
        raise InputError(f"manifest '{path}': expected rows below its header, got none")
    return [_row(path, number, row) for number, row in enumerate(rows, start=2)]


def _row(manifest: Path, number: int, row: dict[str, str | None]) -> _File:
    values = {column: (row.get(column) or "").strip() for column in COLUMNS}
    empty = [column for column in COLUMNS[:3] if not values[column]]
    if empty:
        raise InputError(f"manifest '{manifest}', line {number}: no {empty[0]}")
    transform = manifest.parent / values["transform"] if values["transform"] else None
    image = manifest.parent / values["path"]
    lost = next((path for path in (image, transform) if path is not None and not path.exists()), None)
    if lost is not None:
        raise InputError(
            f"manifest '{manifest}', line {number}: '{lost}' does not exist (paths are relative to the manifest)"
        )
    return _File(values["subject"], _contrast(values["contrast"]), image, transform, values["set"], values["licence"])


def _grouped(
    files: Sequence[_File], settings: SourceSettings, what: str, on_subject: OnSubject = lambda _name: None
) -> list[Subject]:
    """One subject for each name, its files in their order."""
    groups: dict[str, list[_File]] = {}
    first: dict[tuple[str, str], _File] = {}
    for file in files:
        twin = first.setdefault((file.subject, file.contrast), file)
        if twin is not file:
            raise InputError(
                f"{what}: subject '{file.subject}' has two files of contrast '{file.contrast}' ('{twin.path.name}' and "
                f"'{file.path.name}'); name sessions SUBJECT/1, SUBJECT/2 in a manifest"
            )
        wanted = file.contrast in settings.contrasts or not settings.contrasts
        if file.contrast == LABELS or (wanted and file.contrast not in OTHER_LABELS):
            groups.setdefault(file.subject, []).append(file)
    if not groups:
        there = ", ".join(sorted({file.contrast for file in files}))
        asked = (
            f"one of the contrasts {', '.join(settings.contrasts)}" if settings.contrasts else "a contrast to train on"
        )
        raise InputError(f"{what}: no file has {asked}; there are {there}")
    subjects = []
    for name, group in groups.items():
        on_subject(name)
        subjects.append(_subject(name, group, settings))
    return subjects


def _subject(name: str, files: Sequence[_File], settings: SourceSettings) -> Subject:
    labels = next((read_image(file.path, labels=True) for file in files if file.contrast == LABELS), None)
    images: list[Image] = []
    try:
        for file in files:
            if file.contrast != LABELS:
                images.append(_onto_first(file, images))
        subject = make_subject(name, images, labels, settings.spacing)
    except RegsimError as problem:
        raise problem if f"'{name}'" in str(problem) else type(problem)(f"subject '{name}': {problem}") from None
    return replace(subject, data_set=files[0].data_set or files[0].path.parent.name, licence=files[0].licence)


def _onto_first(file: _File, images: Sequence[Image]) -> Image:
    """One contrast, on the grid of the subject's first one."""
    image = replace(read_image(file.path), name=file.contrast)
    if not images or (file.transform is None and image.grid.same_as(images[0].grid)):
        return image
    first = images[0]
    if image.grid.unit == "px" and file.transform is None:
        raise GridError(
            f"picture '{file.path}' ({image.grid}) is not as large as the subject's {first.name} ({first.grid}); bring both "
            "to one size, or name a transform in a manifest"
        )
    transform = None if file.transform is None else read_transform(file.transform, image.ndim)
    return replace(warp(image, transform, first.grid), mask=None)


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if ending(file) in PICTURES and not file.name.startswith("."))


def _stack(name: str, files: Sequence[Path]) -> Subject:
    """Pictures of one size, one section each."""
    images = [read_image(file) for file in files]
    other = next((image for image in images if image.grid.size != images[0].grid.size), None)
    if other is not None:
        raise GridError(
            f"sections of '{name}' differ in size: {images[0].name} {images[0].grid}, {other.name} {other.grid}"
        )
    volume = torch.stack([rescaled(image).data[0] for image in images])
    seen = torch.ones_like(volume, dtype=torch.bool)
    return Subject(name, {"image": volume}, None, seen, empty_outside=False, data_set=name)
