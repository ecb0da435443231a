"""Metrics by name, as the command line and the settings files write them: `mind` or `mind:radius=1,dilation=2`."""

import re
from ast import literal_eval
from pathlib import Path
from typing import Any

from regsim.errors import SettingsError, unknown_name
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
    name, _, text = spec.strip().partition(":")
    if name not in REGISTRY and (name in bundled_models() or (Path(name) / CARD).is_file()):
        text = f"model={name}" + (f",{text}" if text else "")
        name = read_card(model_folder(name)).metric
    if name not in REGISTRY:
        raise unknown_name("metric", name, metric_names())
    together = {**_parse(text, spec), **settings}
    try:
        return REGISTRY[name].create(**together)
    except TypeError as error:
        raise SettingsError(
            f"metric '{name}': a setting has the wrong kind of value in {together} ({error})"
        ) from error


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
