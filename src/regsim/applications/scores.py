"""Scores of two files, and the maps that go with them."""

from pathlib import Path

import torch
from pydantic import Field

from regsim.applications.files import read_pair
from regsim.errors import SettingsError
from regsim.evaluation.results import MetricRow
from regsim.evaluation.scoring import as_expected, on_fixed_grid, score
from regsim.images.image import Image
from regsim.images.io import writable_ending, write_image
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.names import label_of
from regsim.settings import Settings
from regsim.transforms.files import read_transform


class ScoreRequest(Settings):
    """What `regsim score` was asked to do; see the command's help for each option."""

    fixed: Path
    moving: Path
    metrics: tuple[str, ...] = ()
    transform: Path | None = None
    maps: tuple[str, ...] = ()
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    spacing: float | None = Field(default=None, gt=0)
    seed: int = 0
    device: str = "cpu"


def score_files(asked: ScoreRequest) -> list[MetricRow]:
    """Read, score, and write the maps.

    Raises:
        RegsimError: any input that cannot be used; nothing was written.
    """
    torch.manual_seed(asked.seed)
    metrics = [load_metric(spec) for spec in asked.metrics] or None
    maps = [_map_request(text) for text in asked.maps]
    fixed, moving = read_pair(asked.fixed, asked.moving, asked.fixed_mask, asked.moving_mask, asked.spacing)
    for _, path in maps:
        writable_ending(path, fixed.ndim)
    transform = None if asked.transform is None else read_transform(asked.transform, fixed.ndim)
    fixed, moving = fixed.to(asked.device), moving.to(asked.device)
    rows = score(fixed, moving, metrics, transform)
    if metrics is not None:
        labels = [label_of(spec) for spec in asked.metrics]
        rows = [row.model_copy(update={"metric": label}) for row, label in zip(rows, labels, strict=True)]
    carried, mask = on_fixed_grid(fixed, moving, transform)
    for metric, path in maps:
        with torch.no_grad():
            pair = as_expected(metric, fixed, carried)
            local = metric.with_spacing(tuple(reversed(fixed.grid.spacing))).map(pair[0].batch, pair[1].batch, mask)
        write_image(Image(local[0].cpu(), fixed.grid, name=metric.name), path)
    return rows


def _map_request(text: str) -> tuple[AbstractMetric, Path]:
    """`NAME=FILE`; the last `=` separates, since settings hold some too."""
    spec, equals, path = text.rpartition("=")
    if not (spec and equals and path):
        raise SettingsError(f"--map '{text}': expected NAME=FILE, such as mind=mind_map.nii.gz")
    metric = load_metric(spec)
    if not metric.has_map:
        raise SettingsError(f"--map '{text}': metric '{metric.name}' has no local map")
    writable_ending(Path(path))
    return metric, Path(path)
