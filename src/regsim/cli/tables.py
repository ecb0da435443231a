"""What the commands print: tables that fit a terminal, and lines of text."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from regsim.evaluation.landscape_rows import LandscapeResults
    from regsim.evaluation.results import MetricRow, RegistrationResults
    from regsim.evaluation.translation import TranslationRow
    from regsim.metrics.checkpoint import Card
    from regsim.training.recipe import AnyRecipe


def number(value: float | None) -> str:
    """Four significant digits, without a needless exponent.

    >>> number(0.123456), number(1234567.0), number(None)
    ('0.1235', '1.235e+06', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}"


def say(line: str) -> None:
    """One line of plain text on standard output, never wrapped; brackets in names are no markup."""
    Console().print(line, soft_wrap=True, markup=False, highlight=False)


def show_report(page: Path) -> None:
    """Where the page is."""
    say(f"report: {page}")


def show_scores(rows: Sequence["MetricRow"]) -> None:
    """One line a metric."""
    table = Table("metric", "value", "unit", "better", "seconds", box=None, pad_edge=False)
    for row in rows:
        better = "higher" if row.higher_is_better else "lower"
        table.add_row(row.metric, number(row.value), row.unit or "-", better, f"{row.seconds:.2f}")
    Console().print(table)


def show_translation(rows: Sequence["TranslationRow"]) -> None:
    """One line a region."""
    if not rows:
        return
    table = Table("region", "NMAE", "PSNR [dB]", "SSIM", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.region, f"{row.nmae:.4f}", f"{row.psnr:.2f}", f"{row.ssim:.4f}")
    Console().print(table)


INTERVAL = "_interval"
IN_TERMINAL = {
    "spearman": "order",
    "spearman_hidden": "hidden",
    "auc_1": "AUC",
    "minima": "minima",
    "capture": "capture",
    "offset_noise": "offset",
    "balance": "balance",
    "times_mse": "x mse",
}


def show_landscape(results: "LandscapeResults") -> None:
    """One line a metric, the best by order first; the page has the other columns."""
    shown = [item for item in results.criteria() if item.name in IN_TERMINAL]
    table = Table("metric", box=None, pad_edge=False)
    for item in shown:
        table.add_column(IN_TERMINAL[item.name], justify="right")
    for row in sorted(results.rows, key=lambda row: -row["spearman"]):
        table.add_row(row.metric, *[_short(row[item.name]) for item in shown])
    Console().print(table)
    distance = f"{results.distances[min(1, len(results.distances) - 1)]:g} {results.unit}"
    say("order: rank correlation with the true error; hidden: the same with the outline hidden; AUC at " + distance)
    say(
        f"minima: spurious ones; capture, offset (with noise): {results.unit}; balance: rotation against shift, 1 is best"
    )
    for note in results.notes:
        say(note)
    say(f"{results.seconds:.1f} s")


def _short(value: float) -> str:
    """Two decimals, for a column of a narrow table.

    >>> _short(0.956), _short(123.4), _short(math.nan)
    ('0.96', '123', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def show_registration(results: "RegistrationResults") -> None:
    """Before and after, and the true error where it is known."""
    table = Table("metric", "before", "after", "better", "", box=None, pad_edge=False)
    for row in results.metrics:
        better = "higher" if row.higher_is_better else "lower"
        worse = row.after != row.before and (row.after > row.before) != row.higher_is_better
        mark = "drove" if row.drove else "worse" if worse else ""
        table.add_row(row.metric, number(row.before), number(row.after), better, mark)
    Console().print(table)
    unit = results.unit
    if results.truth is not None:
        truth = results.truth
        say(
            f"true error: {number(truth.before_mean)} {unit} before, {number(truth.after_mean)} {unit} after "
            f"(95 %: {number(truth.after_percentile_95)}); rigid part {number(truth.rigid_error)} {unit}"
        )
    if results.jacobian is not None:
        say(f"folded: {100 * results.jacobian.folded_fraction:.3f} % of the foreground")
    say(f"{results.iterations} steps, {results.seconds:.1f} s, peak memory {results.peak_memory_mb:.0f} MB")


def show_card(card: "Card") -> None:
    """What a model is, and how good on unseen subjects."""
    from regsim.evaluation.training_rows import spoken

    table = Table(card.name, "", box=None, pad_edge=False)
    table.add_row("metric", card.metric)
    table.add_row("data", ", ".join(source.name for source in card.data) or "-")
    table.add_row("licence", card.licence or "-")
    parts = card.subjects
    counts = f"{len(parts.train)} training, {len(parts.validation)} validation, {len(parts.test)} test"
    table.add_row("subjects", counts)
    for name, value in card.figures.items():
        if not name.endswith(INTERVAL):
            ends = card.figures.get(name + INTERVAL)
            table.add_row(spoken(name), _figure(value) + (f" ({_figure(ends)})" if ends is not None else ""))
    Console().print(table)


def _figure(value: float | str | tuple[float, ...]) -> str:
    if isinstance(value, str):
        return value
    return " to ".join(number(end) for end in value) if isinstance(value, tuple) else number(value)


def show_recipes(recipes: Mapping[str, "AnyRecipe"]) -> None:
    """One line a recipe, or two."""
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    for heading in ("metric", "what it trains"):
        table.add_column(heading)
    for name, recipe in recipes.items():
        table.add_row(name, recipe.metric, recipe.description)
    Console().print(table)


def show_models(cards: Sequence["Card"]) -> None:
    """One line a model."""
    if not cards:
        say("No trained models come with this regsim; `regsim train` makes one")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("metric", "axes", "weights", "licence"):
        table.add_column(name)
    for card in cards:
        weights = sum(math.prod(tensor.shape) for tensor in card.tensors.values())
        encoder = card.network.get("encoder", {})
        axes = encoder.get("dims", "-") if isinstance(encoder, dict) else "-"
        table.add_row(card.name, card.metric, str(axes), f"{weights:,}", card.licence or "-")
    Console().print(table)
