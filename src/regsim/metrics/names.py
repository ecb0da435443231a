"""Metrics by name, as the command line and the settings files write them: `mind` or `mind:radius=1,dilation=2`."""

import re
from ast import literal_eval
from pathlib import Path
from typing import Any

from regsim.errors import InputError, SettingsError, unknown_name
from regsim.metrics.base import REGISTRY, AbstractMetric
from regsim.metrics.checkpoint import CARD, read_card
from regsim.metrics.zoo import bundled_models, model_folder

_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


def metric_names() -> list[str]:
    """The registered metrics, sorted.

    >>> "mse" in metric_names()
    True
    """
    return sorted(REGISTRY)


def usable_metrics() -> list[str]:
    """Those that work by their name alone: what "all metrics" means where none is named.

    >>> "mse" in usable_metrics(), "perceptual" in usable_metrics()
    (True, False)
    """
    return [name for name in metric_names() if not REGISTRY[name].needs]


def load_metric(spec: str | AbstractMetric, **settings: Any) -> AbstractMetric:
    """A metric from its name and settings; a metric object comes back as it is.

    Args:
        spec: `name` or `name:setting=value,...`; a bundled model's name, or a model folder, stands for its metric with
            that model. Values: numbers, true, false, none, a tuple as `1x2` or `(1, 2)`, else
            a word.
        **settings: the same by keyword; they win over the spec.

    Raises:
        SettingsError: unknown metric or setting (the message lists the known ones), a value out of its range or of a
            wrong
            kind, settings for a metric object.

    Example:
        >>> load_metric("mind:radius=2,dilations=1x3").dilations
        (1, 3)
        >>> load_metric("mimd")
        Traceback (most recent call last):
            ...
        regsim.errors.SettingsError: unknown metric 'mimd'; did you mean 'mind'? Known: ...
    """
    if isinstance(spec, AbstractMetric):
        if settings:
            raise SettingsError(
                f"settings {sorted(settings)} given with a ready metric '{spec.name}'; give its name instead"
            )
        return spec
    name, text = _split(spec)
    together = {**_parse(text, spec), **settings}
    if name not in REGISTRY:
        together = {"model": name, **together}
        name = _metric_of(name)
    try:
        return REGISTRY[name].create(**together)
    except TypeError as error:
        raise SettingsError(
            f"metric '{name}': a setting has the wrong kind of value in {together} ({error})"
        ) from error


def metric_class(spec: str) -> type[AbstractMetric] | None:
    """Whose facts hold for a metric that is named as for `load_metric`, without making it.

    None: neither a registered metric nor a model.

    Raises:
        InputError: a model's card that cannot be read, or names no metric.

    >>> metric_class("mind:radius=2").name
    'mind'
    """
    name = _split(spec)[0]
    if name in REGISTRY:
        return REGISTRY[name]
    return REGISTRY[_metric_of(name)] if is_model(spec) else None


def label_of(spec: str) -> str:
    """How a table names a metric: as it is registered, or a model by the last part of its folder.

    >>> label_of("mind:radius=2"), label_of("models/my-metric")
    ('mind', 'my-metric')
    """
    name = spec.strip().partition(":")[0]
    return name if name in REGISTRY else Path(spec.strip()).name


def is_model(spec: str) -> bool:
    """Whether a metric is named by a model of it: a bundled one, or a folder."""
    name = _split(spec)[0]
    return name not in REGISTRY and (name in bundled_models() or (Path(name) / CARD).is_file())


def _split(spec: str) -> tuple[str, str]:
    """Name and settings. A model folder's name may hold a colon, as on Windows."""
    spec = spec.strip()
    if ":" in spec and (Path(spec) / CARD).is_file():
        return spec, ""
    name, _, text = spec.partition(":")
    return name, text


def _metric_of(model: str) -> str:
    """The metric that a model belongs to.

    Raises:
        SettingsError: neither a metric nor a model.
        InputError: a folder that holds no model.
    """
    if model not in bundled_models() and not Path(model).is_dir() and Path(model).name == model:
        raise unknown_name("metric", model, [*metric_names(), *bundled_models()])
    metric = read_card(model_folder(model)).metric
    if metric not in REGISTRY or not REGISTRY[metric].trainable:
        raise InputError(f"model '{model}': its card names '{metric}', which is no learned metric of this regsim")
    return metric


def _parse(text: str, spec: str) -> dict[str, Any]:
    """`a=1,b=(1,2)` as a dictionary; commas inside brackets do not separate."""
    settings: dict[str, Any] = {}
    for item in re.split(r",(?![^(]*\))", text) if text else []:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value):
            raise SettingsError(f"metric '{spec}': expected name:setting=value,..., got '{item}'")
        if key in settings:
            raise SettingsError(f"metric '{spec}': setting '{key}' is given twice")
        settings[key] = _value(value)
    return settings


def _value(text: str) -> Any:
    """A literal, never an expression: number, true, false, none, tuple, or the word itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if re.fullmatch(r"[-+\d.]+(x[-+\d.]+)+", text):
        return tuple(_value(part) for part in text.split("x"))
    try:
        value = literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float | tuple) else text
