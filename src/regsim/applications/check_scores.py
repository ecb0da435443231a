"""Other metrics beside a check, and which of them drove the registration: what drove cannot judge."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from regsim.applications.check_pair import CheckPair
from regsim.errors import RegsimError
from regsim.evaluation.check_rows import ScoreRow
from regsim.evaluation.results import RegistrationResults
from regsim.evaluation.scoring import score
from regsim.metrics.base import REGISTRY
from regsim.metrics.checkpoint import read_card
from regsim.metrics.names import is_model, label_of, load_metric
from regsim.metrics.registration_error import RegistrationError
from regsim.metrics.zoo import model_folder
from regsim.transforms.base import Transform
from regsim.transforms.dense import Composite
from regsim.transforms.linear import LinearTransform

SAME_PRINCIPLE = ("mind", RegistrationError.name)
LIKENESS = "lncc"


def principle(spec: str) -> str:
    """The registered metric that a name, settings or a model stands for.

    Raises:
        SettingsError: an unknown metric.

    Example:
        >>> principle("mind:radius=2")
        'mind'
    """
    label = label_of(spec)
    if label in REGISTRY:
        return label
    if is_model(spec):
        return read_card(model_folder(spec.strip())).metric
    load_metric(spec)  # says what is known
    return label


def known_principle(spec: str) -> str:
    """The same; empty where this regsim does not know the metric."""
    try:
        return principle(spec)
    except RegsimError:
        return ""


def _results_beside(moved: Path) -> RegistrationResults | None:
    """What `regsim register` wrote beside an image that it warped; None where it did not."""
    try:
        found = RegistrationResults.model_validate_json((moved.parent / "results.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.files.get("warped") == moved.name else None


def transform_beside(moved: Path) -> Path | None:
    """The transform that moved an image, where `regsim register` wrote both into one folder."""
    found = _results_beside(moved)
    path = moved.parent / found.files.get("transform", "") if found else None
    return path if path is not None and path.is_file() else None


def drivers_beside(moved: Path) -> tuple[str, ...]:
    """The metrics that drove, by the `results.json` beside an image that `regsim register` warped; none where there is none."""
    found = _results_beside(moved)
    if found is None:
        return ()
    driving = (row.metric for row in found.metrics if row.drove)
    return tuple(dict.fromkeys(known for each in (*driving, found.metric) if (known := known_principle(each))))


def score_rows(names: Sequence[str], part: CheckPair, drivers: Sequence[str]) -> tuple[list[ScoreRow], list[str]]:
    """Each metric over the mask; and notes on those that could not be computed."""
    masked = replace(part.fixed, mask=part.mask[None].float())
    rows, notes = [], []
    for name in names:
        try:
            found = score(masked, part.moved, [name])[0]
        except RegsimError as problem:
            notes.append(f"{name} was not computed: {problem}.")
            continue
        rows.append(
            ScoreRow(
                metric=name,
                value=found.value if found.value == found.value else None,
                higher_is_better=found.higher_is_better,
                unit=found.unit,
                drove=principle(name) in drivers,
            )
        )
    return rows, notes


def is_deformable(transform: Transform | None) -> bool:
    """Whether any part of a transform can bend."""
    parts = transform.parts() if isinstance(transform, Composite) else [transform]
    return any(part is not None and not isinstance(part, LinearTransform) for part in parts)


def likeness_of(part: CheckPair, rows: Sequence[ScoreRow]) -> float | None:
    """Local correlation of the two images over the mask, of the rows where they hold it; None where it has no value."""
    given = next((row for row in rows if row.metric == LIKENESS), None)
    row = given or next(iter(score_rows([LIKENESS], part, ())[0]), None)
    return None if row is None else row.value


def driver_note(drivers: Sequence[str]) -> list[str]:
    """A warning where the driver and the judge look at the same thing."""
    same = [driver for driver in dict.fromkeys(drivers) if driver in SAME_PRINCIPLE]
    if not same:
        return []
    return [
        f"{' and '.join(same)} drove the registration, and the error is estimated from the same descriptors (MIND): "
        "what one is blind to, the other may be, too."
    ]
