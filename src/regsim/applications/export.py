"""Learned features for other programs: a TorchScript file for elastix and ITK (IMPACT), or feature channels as images."""

import json
import zipfile
from pathlib import Path

import torch
from pydantic import Field

from regsim.errors import InputError, SettingsError
from regsim.images.image import Image
from regsim.metrics import REGISTRY, AbstractMetric, DeepSimilarity, load_metric
from regsim.metrics.checkpoint import DataSource, read_card
from regsim.metrics.export import FeatureExtractor, LevelFacts, level_facts, scripted
from regsim.metrics.features import FeatureMetric
from regsim.metrics.zoo import bundled_models, model_folder
from regsim.output import check_folder, sha256, staged, versions
from regsim.registration.features import features_of
from regsim.settings import Settings

INTENSITY = (
    "any; the model scales each item between its 0.1 % and 99.5 % quantiles, so give whole images, not scaled before"
)
SOURCES = ".debug_pkl"


class ExportedFeatures(Settings):
    """What an exported model is: the `.json` beside the `.pt`.

    `elastix`: lines for a parameter file, for one resolution; the path of the model is to be completed.
    """

    name: str
    file: str
    sha256: str
    model: str
    metric: str
    dims: int
    input: str
    output: str
    intensity: str = INTENSITY
    levels: tuple[LevelFacts, ...]
    elastix: tuple[str, ...]
    licence: str
    data: tuple[DataSource, ...] = ()
    weights_sha256: str
    versions: dict[str, str] = Field(default_factory=dict)


def export_features(model: str | Path, folder: Path) -> ExportedFeatures:
    """Write `NAME.pt` and `NAME.json`, the latter last; both are renamed into the folder when they are whole.

    Args:
        model: a bundled model's name, or a folder that `regsim train` wrote; of the metric deepsim.
        folder: made where it is missing; other files in it stay.

    Raises:
        SettingsError: an unknown model, or the name of a metric.
        InputError: a model without features, a damaged one, a folder that cannot be written.
    """
    _check_has_features(model)
    check_folder(folder)
    place = model_folder(model)
    card, name = read_card(place), place.resolve().name
    metric = DeepSimilarity(str(model))
    dims = 2 if card.network.get("dims", 2) == 2 else 3
    extractor = FeatureExtractor(metric.network(dims))
    levels = tuple(level_facts(extractor))
    with staged(folder, last=(f"{name}.json",)) as part:
        file = part / f"{name}.pt"
        _write_script(scripted(extractor), file)
        facts = ExportedFeatures(
            name=name,
            file=file.name,
            sha256=sha256(file),
            model=card.name,
            metric=card.metric,
            dims=dims,
            input="float (N, 1, H, W)" if dims == 2 else "float (N, 1, D, H, W)",
            output="list of (N, channels, *cells), finest first, one a level",
            levels=levels,
            elastix=tuple(parameter_lines(file.name, dims, levels)),
            licence=card.licence or "not stated on the model's card",
            data=card.data,
            weights_sha256=card.sha256,
            versions=versions(),
        )
        (part / f"{name}.json").write_text(json.dumps(facts.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    return facts


def parameter_lines(file: str, dims: int, levels: tuple[LevelFacts, ...]) -> list[str]:
    """What elastix's parameter file must say of the model, for its first resolution; voxel size and GPU are the user's.

    >>> parameter_lines("m.pt", 2, (LevelFacts(name="tissues", channels=4, stride=1, field_of_view=90),))[-2:]
    ['(ImpactLayersWeight0 1)', '(ImpactMode "Static")']
    """
    count = len(levels)
    per_level = {
        "SubsetFeatures": [str(level.channels) for level in levels],
        "PCA": ["0"] * count,
        "Distance": ['"Cosine"'] * count,
        "LayersWeight": ["1"] * count,
    }
    return [
        '(Metric "Impact")',
        f'(ImpactModelsPath0 "{file}")',
        f"(ImpactDimension0 {dims})",
        "(ImpactNumberOfChannels0 1)",
        f"(ImpactPatchSize0 {' '.join(['0'] * dims)})",
        f'(ImpactLayersMask0 "{"1" * count}")',
        *[f"(Impact{key}0 {' '.join(values)})" for key, values in per_level.items()],
        '(ImpactMode "Static")',
    ]


def feature_images(image: Image, metric: str | AbstractMetric) -> list[Image]:
    """The image's features, one image a channel, on its own grid: what a program without TorchScript can register.

    At every voxel the channels together have length 1 (levels share it evenly), so half the summed squared difference of two
    images' channels is 1 - cosine: compare them all by mean squares, with equal weights. Outside the mask all are 0.

    Args:
        image: one channel.
        metric: a metric with features, such as "deepsim-brain-3d".

    Raises:
        SettingsError: a metric without features.
        InputError: an image of several channels.
    """
    found = load_metric(metric)
    if not isinstance(found, FeatureMetric):
        raise SettingsError(f"metric '{found.name}' has no features; metrics that have: {', '.join(_with_features())}")
    if image.data.shape[0] != 1:
        raise InputError(f"{image.name}: features are taken of one channel, the image has {image.data.shape[0]}")
    whole = features_of(image.filled(), found)
    return [
        Image(channel[None].clone(), image.grid, image.mask, f"{image.name} feature {number}")
        for number, channel in enumerate(whole.data, start=1)
    ]


def _with_features() -> list[str]:
    return sorted(name for name, kind in REGISTRY.items() if issubclass(kind, FeatureMetric))


def _check_has_features(model: str | Path) -> None:
    """Whether this is a model of deepsim; the message names those that are."""
    known = [name for name in bundled_models() if read_card(model_folder(name)).metric == DeepSimilarity.name]
    use = f"use {' or '.join(known)}, or a folder that `regsim train` wrote for {DeepSimilarity.name}"
    if str(model) in REGISTRY:
        raise SettingsError(f"'{model}' is a metric, not a model with features to export; {use}")
    metric = read_card(model_folder(model)).metric
    if metric != DeepSimilarity.name:
        raise InputError(f"model '{model}' belongs to metric '{metric}', which has no features to export; {use}")


def _write_script(module: torch.jit.ScriptModule, file: Path) -> None:
    """Without the lists of source lines that torch adds: they name folders of the machine that wrote them."""
    whole = file.with_suffix(".whole")
    try:
        module.save(str(whole))
        with zipfile.ZipFile(whole) as read, zipfile.ZipFile(file, "w") as write:
            for entry in read.infolist():
                if not entry.filename.endswith(SOURCES):
                    write.writestr(zipfile.ZipInfo(entry.filename), read.read(entry))
    finally:
        whole.unlink(missing_ok=True)
