"""Numbers and outcomes as words: how a report says what happened. Every length comes with the unit of the run."""

import math
from dataclasses import dataclass
from typing import Literal

from regsim.evaluation.results import MetricChange, RegistrationResults

Tone = Literal["better", "worse", "same", "unknown"]
MINUS = "\N{MINUS SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class Outcome:
    """What a registration did, in one sentence, and whether that is an improvement."""

    sentence: str
    tone: Tone


@dataclass(frozen=True)
class Tile:
    """One big figure at the top of a page."""

    label: str
    value: str
    note: str = ""
    tone: Tone = "same"


def number(value: float, digits: int = 3) -> str:
    """A number with a few significant digits.

    >>> number(9.8), number(0.000012), number(123456.7), number(float("nan"))
    ('9.80', '1.20e-05', '123,457', 'not defined')
    """
    if math.isnan(value):
        return "not defined"
    if math.isinf(value):
        return "infinite" if value > 0 else f"{MINUS}infinite"
    size = abs(float(f"{value:.{digits - 1}e}"))  # rounded first, so that 0.0999999 is 0.100
    if size == 0:
        return "0"
    if size < 1e-4 or size >= 1e9:
        text = f"{value:.{digits - 1}e}"
    else:
        text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return text.replace("-", MINUS) if value < 0 and size >= 1e-4 and size < 1e9 else text


def length(value: float, unit: str, digits: int = 3) -> str:
    """A number with its unit; the unit is left out where there is no number.

    >>> length(0.4, "px")
    '0.400 px'
    """
    return f"{number(value, digits)} {unit}".strip() if math.isfinite(value) else number(value)


def pair(before: float, after: float, unit: str) -> tuple[str, str]:
    """Two values side by side, short, but with enough digits to tell them apart.

    >>> pair(9.8, 0.4, "mm"), pair(12.41, 12.38, "px")
    (('9.8 mm', '0.40 mm'), ('12.41 px', '12.38 px'))
    """
    for digits in (2, 3, 4):
        texts = length(before, unit, digits), length(after, unit, digits)
        if texts[0] != texts[1]:
            break
    return texts


def share(fraction: float) -> str:
    """A fraction in percent.

    >>> share(0.0), share(0.000004), share(0.0125), share(1.0)
    ('0%', '<0.01%', '1.25%', '100%')
    """
    if not math.isfinite(fraction):
        return number(fraction)
    percent = 100 * fraction
    if 0 < percent < 0.01:
        return "<0.01%"
    return f"{percent:.3g}%" if percent < 100 else f"{percent:.0f}%"


def duration(seconds: float) -> str:
    """A time that a person can read.

    >>> duration(0.42), duration(12.34), duration(185), duration(3720)
    ('0.42 s', '12.3 s', '3 min 05 s', '1 h 02 min')
    """
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 59.95:
        return f"{number(seconds, 2 if seconds < 10 else 3)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(megabytes: float) -> str:
    """A memory size; zero or no number means that nobody measured it.

    >>> memory(812.4), memory(2048), memory(0)
    ('812 MB', '2.0 GB', 'not measured')
    """
    if not math.isfinite(megabytes) or megabytes <= 0:
        return "not measured"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def compare(before: float, after: float, higher_is_better: bool) -> Tone:
    """Whether `after` is an improvement on `before`; NaN gives "unknown"."""
    if math.isnan(before) or math.isnan(after):
        return "unknown"
    if before == after:
        return "same"
    return "better" if (after > before) == higher_is_better else "worse"


def judging_metric(metrics: list[MetricChange]) -> MetricChange | None:
    """The metric to name first: one that did not drive the registration and that has two values, if there is one."""
    usable = [row for row in metrics if math.isfinite(row.before) and math.isfinite(row.after)]
    independent = [row for row in usable if not row.drove]
    return next(iter(independent or usable or metrics), None)


def outcome(results: RegistrationResults) -> Outcome:
    """One sentence: which image was aligned to which, how, and what came of it."""
    start = f"{results.moving.name} aligned to {results.fixed.name} ({results.transform}, {results.metric})"
    truth, row = results.truth, judging_metric(results.metrics)
    if truth is not None:
        before, after = pair(truth.before_mean, truth.after_mean, results.unit)
        return Outcome(f"{start}: error {before} {ARROW} {after}", compare(truth.before_mean, truth.after_mean, False))
    if row is None:
        return Outcome(f"{start}: nothing measured the outcome", "unknown")
    values = f"{row.metric} {f' {ARROW} '.join(pair(row.before, row.after, row.unit))}"
    tone = compare(row.before, row.after, row.higher_is_better)
    if row.drove:
        return Outcome(f"{start}: {values}, but this metric drove the registration and cannot judge it", "unknown")
    word = {"better": "better", "worse": "worse", "same": "unchanged", "unknown": "cannot tell"}[tone]
    return Outcome(f"{start}: {values} ({word}; the true error is not known)", tone)


def tiles(results: RegistrationResults) -> list[Tile]:
    """The big figures: error or metric before and after, folding, time, memory."""
    return [*_before_after(results), *_folding(results), *_effort(results)]


def _before_after(results: RegistrationResults) -> list[Tile]:
    truth, row = results.truth, judging_metric(results.metrics)
    if truth is not None:
        tone = compare(truth.before_mean, truth.after_mean, False)
        before, after = pair(truth.before_mean, truth.after_mean, results.unit)
        high = f"95% of the foreground below {length(truth.after_percentile_95, results.unit, 2)}"
        return [
            Tile("Mean error before", before),
            Tile("Mean error after", after, high, tone),
        ]
    if row is None:
        return []
    before, after = pair(row.before, row.after, row.unit)
    tone = "unknown" if row.drove else compare(row.before, row.after, row.higher_is_better)
    note = f"{'higher' if row.higher_is_better else 'lower'} is better"
    return [
        Tile(f"{row.metric} before", before),
        Tile(f"{row.metric} after", after, note, tone),
    ]


def _folding(results: RegistrationResults) -> list[Tile]:
    if results.jacobian is None:
        return []
    fraction = results.jacobian.folded_fraction
    tone: Tone = "unknown" if math.isnan(fraction) else "worse" if fraction > 0 else "better"
    return [Tile("Folded", share(fraction), "share of the foreground; 0% is right", tone)]


def _effort(results: RegistrationResults) -> list[Tile]:
    return [
        Tile("Time", duration(results.seconds), f"{results.iterations:,} iterations"),
        Tile("Peak memory", memory(results.peak_memory_mb)),
    ]
