"""The page of a trained model: its folder in, one HTML file out that opens without a network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from regsim.errors import InputError
from regsim.evaluation.shot_rows import SHOTS, ShotRow, read_shots
from regsim.evaluation.training_rows import (
    AUDIT,
    CARD,
    CHECK,
    CURVES,
    AuditRows,
    ModelCard,
    StageCurves,
    read_curves,
    spoken,
)
from regsim.output import write_text
from regsim.report import figures, page, pictures, training_figures, wording

INTERVAL = "_interval"
EFFORT = "Trained in "
MEANING = {
    "threshold": "a pair above this value is called misaligned (an error: half of the smallest that counts)",
    "spearman": "does the value grow with the true error? rank correlation over all test pairs; 1 is best, 0 is chance",
    "spearman_outline_hidden": "the same where only a disc inside the object is shown, so that its outline cannot help",
    "auc": "how often a misaligned pair gets a higher value than an aligned one; 1 is best, 0.5 is chance",
    "accuracy": "pairs called rightly at the threshold, mean of both kinds; 1 is best, 0.5 is chance",
    "blurred_called_misaligned": "aligned pairs called misaligned once one image is blurred; 0 is best",
    "best_classical": "the classical metric that did best on the same pairs",
    "best_classical_spearman": "its rank correlation with the true error",
    "relative": "error of the predicted difference over the difference; 0 is best, 1 is as good as predicting nothing",
    "nmae": "mean absolute error of the translated image, of intensities from 0 to 1; 0 is best",
}


@dataclass(frozen=True)
class Figure:
    """One figure on unseen subjects, as text; `interval` is "" where there is none."""

    name: str
    value: str
    interval: str
    is_number: bool
    meaning: str = ""


def write_training_page(folder: Path, target: Path | None = None) -> Path:
    """Write the page of one model folder and return where it lies.

    Args:
        folder: holds `card.json`; `curves.csv` and `audit.json` where the training left them.
        target: the page to write; `report.html` in the folder unless given.

    Raises:
        InputError: `card.json` is missing or is not a model's card.
    """
    card = _read_card(folder / CARD)
    notes: list[str] = []
    stages = page.optional(folder / CURVES, read_curves, notes) or []
    audit = page.optional(folder / AUDIT, _read_audit, notes)
    shots = page.optional(folder / SHOTS, read_shots, notes)
    card = card.model_copy(update={"notes": (*card.notes, *notes)})
    target = folder / page.PAGE_NAME if target is None else target
    write_text(target, render_training_page(card, stages, audit, () if shots is None else shots.shots))
    return target


def render_training_page(
    card: ModelCard, stages: list[StageCurves], audit: AuditRows | None, shots: Sequence[ShotRow] = ()
) -> str:
    """The whole page as text. Without `stages` it has no curves, without `audit` it says so."""
    return page.environment().get_template("training.html.j2").render(
        card=card,
        description=_described(card),
        effort=[note for note in card.notes if note.startswith(EFFORT)],
        notes=[note for note in card.notes if not note.startswith(EFFORT) and note != _described(card)],
        tiles=_tiles(card, stages, audit),
        figures=_figures(card),
        parts=[("training", card.subjects.train), ("validation", card.subjects.validation), ("test", card.subjects.test)],
        stages=[_stage(card, stages, number) for number in range(len(stages))],
        audit=audit,
        shots=shots,
        answers=_answers(shots),
        groups={"Network": _flat(card.network), "Recipe": _flat(card.settings), "Versions": _flat(card.versions)},
        style=Markup(page.asset("style.css")),  # ours, not a user's
        script="",
        script_hash=page.script_hash(""),
    )  # fmt: skip


def _read_card(path: Path) -> ModelCard:
    if not path.is_file():
        raise InputError(f"{path}: expected the card of a model, found no such file; run `regsim train` first")
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: not the card of a model: {page.first_mistake(error)}") from error


def _read_audit(path: Path) -> AuditRows:
    return AuditRows.model_validate_json(path.read_bytes())


def _tiles(card: ModelCard, stages: list[StageCurves], audit: AuditRows | None) -> list[wording.Tile]:
    """The first figures on unseen subjects, then the size and the effort."""
    seen = "unseen subjects" if card.subjects.test else ""
    shown = [figure for figure in _figures(card) if figure.is_number and figure.name != "threshold"][:3]
    tiles = [wording.Tile(each.name, each.value, f"{each.interval}, {seen}".strip(", ")) for each in shown]
    if audit is not None:
        tone: wording.Tone = "better" if audit.passed else "worse"
        tiles.append(wording.Tile("Audit of the pairs", "passed" if audit.passed else "failed", "", tone))
    tiles.append(wording.Tile("Weights", f"{card.weights:,}", f"in {len(card.tensors)} tensors"))
    if stages:
        steps = sum(int(stage.columns["step"][-1]) for stage in stages)
        tiles.append(wording.Tile("Training", wording.duration(stages[-1].columns["seconds"][-1]), f"{steps:,} steps"))
    return tiles


def _figures(card: ModelCard) -> list[Figure]:
    """The card's figures; `x_interval` belongs to `x`."""
    ends = {name: _figure(card.figures[name + INTERVAL]) for name in card.figures if name + INTERVAL in card.figures}
    return [
        Figure(spoken(name), _figure(value), ends.get(name, ""), isinstance(value, float), _meaning(name))
        for name, value in card.figures.items()
        if name.removesuffix(INTERVAL) not in ends or name in ends
    ]


def _meaning(name: str) -> str:
    """What a figure says; `x_CONTRAST` is x for one contrast.

    >>> _meaning("relative_t2") == MEANING["relative"], _meaning("unheard_of")
    (True, '')
    """
    known = [figure for figure in MEANING if name == figure or name.startswith(f"{figure}_")]
    return MEANING[max(known, key=len)] if known else ""


def _described(card: ModelCard) -> str:
    """The recipe's own words."""
    told = card.settings.get("description")
    return told if isinstance(told, str) else ""


def _stage(card: ModelCard, stages: list[StageCurves], number: int) -> dict[str, Any]:
    """Name, plots and facts of one stage."""
    stage, decides = stages[number], _decides(card, number)
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    plots = {
        name: pictures.data_uri(training_figures.stage_curves(stage, decides, theme), "svg+xml")
        for name, theme in themes.items()
    }
    begun = stages[number - 1].columns["seconds"][-1] if number else 0.0
    return {
        "name": stage.name,
        "plots": plots,
        "steps": int(stage.columns["step"][-1]),
        "seconds": stage.columns["seconds"][-1] - begun,
        "first": stage.columns["loss"][0],
        "last": stage.columns["loss"][-1],
        "checks": [spoken(name.removeprefix(CHECK)) for name in stage.checks],
        "decides": spoken(decides),
    }


def _answers(shots: Sequence[ShotRow]) -> dict[str, str]:
    """The responses of all shots as plots, for both themes; none where no shot has any."""
    known = [shot for shot in shots if shot.responses]
    if not known:
        return {}
    themes = {"light": figures.LIGHT, "dark": figures.DARK}
    return {
        name: pictures.data_uri(training_figures.shot_responses(known, theme), "svg+xml")
        for name, theme in themes.items()
    }


def _decides(card: ModelCard, number: int) -> str:
    """The figure that chose a stage's weights, if the recipe on the card tells."""
    told = card.settings.get("stages")
    stage = told[number] if isinstance(told, list) and number < len(told) else None
    name = stage.get("decides") if isinstance(stage, dict) else None
    return name if isinstance(name, str) else ""


def _figure(value: float | str | tuple[float, ...]) -> str:
    """A number; two numbers are an interval."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return (" to " if len(value) == 2 else ", ").join(wording.number(one) for one in value)
    return wording.number(value)


def _flat(values: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines of a table."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, dict):
            lines += _flat(value, f"{above}{name}.")
        else:
            lines.append((above + name, value if isinstance(value, str) else json.dumps(value)))
    return lines
