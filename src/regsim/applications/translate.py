"""An image in another image's contrast: by IMSE's evaluator, by a trained generator, or by histogram matching."""

from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk
import torch
from pydantic import Field

from regsim.applications.files import read_pair
from regsim.errors import InputError, SettingsError
from regsim.evaluation.scoring import on_fixed_grid
from regsim.evaluation.translation import TranslationRow, compare_translation
from regsim.images.image import Image
from regsim.images.io import read_image, writable_ending, write_image
from regsim.metrics import load_metric
from regsim.metrics.imse import IndescribableSpatialEvaluator
from regsim.metrics.translation import TranslatedMeanAbsoluteError
from regsim.prepare import intensity_ends, rescaled
from regsim.settings import Settings
from regsim.transforms.files import read_transform

METHOD, HISTOGRAM = "imse:mirrored=every", "histogram"
LEVELS, POINTS = 1024, 15


class TranslateRequest(Settings):
    """What `regsim translate` was asked to do; see the command's help for each option."""

    source: Path
    like: Path
    output: Path
    method: str = METHOD
    transform: Path | None = None
    truth: Path | None = None
    source_mask: Path | None = None
    like_mask: Path | None = None
    spacing: float | None = Field(default=None, gt=0)
    device: str = "cpu"


def translate_file(asked: TranslateRequest) -> list[TranslationRow]:
    """Translate, write, and compare with the truth where one is given.

    Raises:
        RegsimError: any input that cannot be used; nothing was written.
    """
    source, like = read_pair(asked.source, asked.like, asked.source_mask, asked.like_mask, asked.spacing)
    writable_ending(asked.output, source.ndim)
    truth = None if asked.truth is None else read_image(asked.truth, picture_spacing=asked.spacing)
    transform = None if asked.transform is None else read_transform(asked.transform, source.ndim)
    carried, mask = on_fixed_grid(source, like, transform)
    found = translated(source, carried, mask, asked.method, asked.device)
    rows = [] if truth is None else compare_translation(found, truth, asked.method)
    write_image(found, asked.output)
    return rows


def translated(
    source: Image, like: Image, mask: torch.Tensor | None = None, method: str = METHOD, device: str = "cpu"
) -> Image:
    """The source in the contrast of `like`, in its intensities, on the source's grid.

    "imse", or a model of it: `x = r - E(source, r)`, r the reference, which need not be aligned well: what the evaluator predicts
    is the reference less the source in its contrast. (The published code predicts half of that, and there x is r - 2 E.) By
    default E is the mean over all mirror images.
    A model of `translation`: its generator; the reference gives the intensities' range alone. "histogram": SimpleITK's matching
    of 15 quantiles, the baseline that knows no anatomy.

    Args:
        source: one channel.
        like: on the source's grid.
        mask: `(1, 1, *shape)`, where both hold data; elsewhere the result is the reference's least intensity.
        method: see above.
        device: where to compute.

    Raises:
        SettingsError: another metric's name.
        InputError: more than one channel, a constant image.
    """
    if source.data.shape[0] != 1 or like.data.shape[0] != 1:
        raise InputError(f"'{source.name}': translation takes images of one channel")
    if method == HISTOGRAM:
        return _matched(source, like)
    metric = load_metric(method)
    first, second = rescaled(source).to(device), rescaled(like).to(device)
    metric = metric.to(device)
    weights = None if mask is None else mask.to(device)
    with torch.no_grad():
        if isinstance(metric, IndescribableSpatialEvaluator):
            found = second.batch - metric.difference(first.batch, second.batch, weights)
        elif isinstance(metric, TranslatedMeanAbsoluteError):
            found = metric.translated(first.batch)
        else:
            raise SettingsError(
                f"method '{method}' does not translate; take imse, a model of imse or translation, or histogram"
            )
    found = found.clamp(0, 1).cpu()
    if weights is not None:
        found = found * (weights.cpu() > 0)
    low, high = intensity_ends(like.filled())
    held = None if mask is None else (mask[0] > 0).to(source.data)
    return replace(source, data=(low + (high - low) * found[0]).to(torch.float32), mask=held)


def _matched(source: Image, like: Image) -> Image:
    found = sitk.HistogramMatching(
        source.to_sitk(), like.to_sitk(), numberOfHistogramLevels=LEVELS, numberOfMatchPoints=POINTS
    )
    data = torch.from_numpy(sitk.GetArrayFromImage(found)).to(torch.float32)[None]
    return replace(source, data=data)
