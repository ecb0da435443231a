"""How a metric responds to misalignment: one bench for every metric, classical, learned or a stranger's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from regsim.errors import GridError, InputError
from regsim.evaluation.canvas import Canvas, LandscapePair
from regsim.evaluation.criteria import PairTable, judge
from regsim.evaluation.expense import expenses
from regsim.evaluation.landscape_pictures import curves, nuisances, pictures, surface_arrays
from regsim.evaluation.landscape_rows import LandscapeArrays, LandscapeResults, LandscapeRow, ResponseRow
from regsim.evaluation.landscape_settings import LandscapeSettings
from regsim.evaluation.measuring import Screen, measure
from regsim.evaluation.probes import Drawing, Probe
from regsim.evaluation.statistics import FEWEST_SUBJECTS
from regsim.metrics import AbstractMetric, load_metric, usable_metrics

__all__ = ["Landscape", "LandscapePair", "LandscapeSettings", "landscape"]

LEAST_SEEN = 0.3
SHRINK = 0.7
SMALLEST = 0.15
DOUBTFUL = 0.75


@dataclass(frozen=True, eq=False)
class Landscape:
    """What was found: the results for files and pages, and every table for who wants to look closer."""

    results: LandscapeResults
    labels: list[str]
    metrics: list[AbstractMetric]
    tables: list[PairTable]
    arrays: LandscapeArrays

    @property
    def rows(self) -> list[LandscapeRow]:
        """One row a metric, in the order asked."""
        return self.results.rows

    def row(self, metric: str) -> LandscapeRow:
        """The row of one metric."""
        return next(row for row in self.rows if row.metric == metric)

    def responses(self) -> list[ResponseRow]:
        """Every measured value, long form."""
        return [
            ResponseRow(
                metric=label,
                pair=table.name,
                subject=table.subject,
                group=probe.group,
                kind=probe.kind,
                amount=probe.amount,
                second=probe.second,
                error=probe.error,
                value=-cost if metric.higher_is_better else cost,
            )
            for table in self.tables
            for number, (label, metric) in enumerate(zip(self.labels, self.metrics, strict=True))
            for probe, cost in zip(table.probes, table.costs[number].tolist(), strict=True)
        ]


def landscape(
    pairs: Sequence[LandscapePair],
    metrics: Sequence[str | AbstractMetric] | None = None,
    settings: LandscapeSettings | None = None,
    *,
    device: str = "cpu",
    advance: Callable[[int, int], None] | None = None,
    title: str = "Landscape",
) -> Landscape:
    """Judge metrics on aligned pairs that are misaligned by known amounts.

    Convention:
        All metrics see the same images, with intensities scaled to [0, 1]. Both images of every pair are resampled alike,
        and nothing is padded: a mask (or a uniform background) takes the place of what is not known.

    Args:
        pairs: one or more, aligned. Pairs of one subject are drawn together by the bootstrap.
        metrics: names, or metric objects (also `regsim.metrics.foreign.Foreign`); all that work by name alone where not given.
        settings: `LandscapeSettings.preset(ndim)` where not given.
        device: where the images are compared; metric objects are moved there.
        advance: called with (probes done, probes in all).
        title: for the page.

    Raises:
        GridError: no pair, pairs of different kinds, images that do not overlap or are too small.
        InputError: a constant image; a metric that gives NaN.
        SettingsError: an unknown metric.

    Example:
        >>> from regsim.images import Image
        >>> y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        >>> blob = torch.exp(-((x - 32) ** 2 + (y - 30) ** 2) / 200) * (1 + 0.5 * torch.sin(x / 3))
        >>> found = landscape(
        ...     [LandscapePair(Image.of_array(blob), Image.of_array(blob**1.2))],
        ...     ["mse", "ncc"],
        ...     LandscapeSettings.preset(2, quick=True, reach=4.0),
        ... )
        >>> found.row("ncc")["spearman"] > 0.8
        True
    """
    began = time.perf_counter()
    _check(pairs)
    labels, ready = _named(metrics)
    ready = [metric.to(device).eval() for metric in ready]
    asked = settings or LandscapeSettings.preset(pairs[0].fixed.ndim)
    bench = _Bench(asked, ready, device, advance)
    for number, pair in enumerate(pairs):
        bench.add(pair, number, len(pairs), number in _with_surface(pairs, asked))
    rows = [bench.row(number, label) for number, label in enumerate(labels)]
    results = LandscapeResults(
        title=title,
        unit=pairs[0].fixed.grid.unit,
        ndim=pairs[0].fixed.ndim,
        distances=list(asked.distances),
        hidden_distance=asked.hidden_distance,
        reach=asked.reach,
        pairs=len(pairs),
        subjects=len({pair.subject for pair in pairs}),
        rows=rows,
        curves=curves(bench.tables, labels),
        nuisances=nuisances(bench.tables, labels),
        notes=[*bench.notes, *_about(pairs, asked), *_doubts(rows, asked)],
        seconds=time.perf_counter() - began,
    )
    arrays = LandscapeArrays({**bench.pictures, **surface_arrays(bench.tables, asked)})
    return Landscape(results, labels, ready, bench.tables, arrays)


class _Bench:
    """Measures pair after pair, and keeps what was found."""

    def __init__(
        self,
        asked: LandscapeSettings,
        metrics: list[AbstractMetric],
        device: str,
        advance: Callable[[int, int], None] | None,
    ):
        self.asked, self.metrics, self.device, self.advance = asked, metrics, device, advance
        self.tables: list[PairTable] = []
        self.notes: list[str] = []
        self.expenses: list[tuple[float, float, float]] = []
        self.pictures: dict[str, npt.NDArray[np.generic]] = {}
        self.done = 0

    def add(self, pair: LandscapePair, number: int, pairs: int, with_surface: bool) -> None:
        """Draw, show and measure the probes of one pair."""
        canvas = Canvas(pair, self.asked.seed + number, self.device)
        groups = self._groups(canvas, number, with_surface)
        total = self.done + sum(len(probes) for probes, _ in groups) * (pairs - number)

        def counted(probes: int) -> None:
            self.done += probes
            if self.advance is not None:
                self.advance(self.done, max(total, self.done))

        found = [measure(self.metrics, screen, probes, counted) for probes, screen in groups]
        probes = [probe.known() for group, _ in groups for probe in group]
        name = pair.name or f"{pair.fixed.name}, {pair.moving.name}"
        self.tables.append(PairTable(name, pair.subject, probes, np.concatenate(found, axis=1)))
        if not self.pictures:
            near, screen = groups[0]
            self.expenses = expenses(self.metrics, screen.show(near[:1]))
            self.pictures = pictures(screen, near[0].tilt, self.metrics)

    def row(self, number: int, label: str) -> LandscapeRow:
        """What is found out about one metric."""
        values, intervals = judge(self.tables, number, self.asked)
        values["seconds"], values["times_mse"], values["memory_mb"] = self.expenses[number]
        return LandscapeRow(
            metric=label,
            higher_is_better=self.metrics[number].higher_is_better,
            pairs=len(self.tables),
            subjects=len({table.subject for table in self.tables}),
            values=values,
            intervals=intervals,
        )

    def _groups(self, canvas: Canvas, number: int, with_surface: bool) -> list[tuple[list[Probe], Screen]]:
        """The probes near the truth, and those of the wide surface; each smaller where the images do not reach so far."""
        groups = []
        for part, name in ((0, "Misalignments"), (1, "Wide surface")):
            share = 1.0
            while True:
                # the same seed every time: a smaller reach is the same drawing, smaller
                generator = torch.Generator().manual_seed(self.asked.seed * 100_003 + number)
                drawing = Drawing(canvas, self.asked.smaller(share), generator)
                probes = drawing.near(with_surface) if part == 0 else drawing.wide(with_surface)
                valid = canvas.valid([probe.motion for probe in probes])
                if valid is None or float(valid.mean()) >= LEAST_SEEN or share < SMALLEST:
                    break
                share *= SHRINK
            self._check_seen(canvas, valid)
            if share < 1:
                self._note(f"{name} {100 * share:.0f} % as large as asked, so that no probe leaves the images")
            groups.append((probes, Screen(canvas, valid)))
        return groups

    def _check_seen(self, canvas: Canvas, valid: torch.Tensor | None) -> None:
        if valid is not None and float(valid.sum()) < 16:
            raise GridError(f"'{canvas.fixed.name}': too small ({canvas.grid}) for misalignments within the images")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _check(pairs: Sequence[LandscapePair]) -> None:
    if not pairs:
        raise GridError("a landscape needs at least one pair of images")
    first = pairs[0].fixed
    for pair in pairs:
        if pair.fixed.ndim != first.ndim or pair.fixed.grid.unit != first.grid.unit:
            raise GridError(
                f"'{pair.fixed.name}' is {pair.fixed.ndim}-D in {pair.fixed.grid.unit}, '{first.name}' {first.ndim}-D in "
                f"{first.grid.unit}; one landscape takes pairs of one kind"
            )
        for image in (pair.fixed, pair.moving):
            if float(image.data.min()) == float(image.data.max()):
                raise InputError(f"'{image.name}' is constant ({float(image.data.min()):g} everywhere)")


def _named(metrics: Sequence[str | AbstractMetric] | None) -> tuple[list[str], list[AbstractMetric]]:
    """Labels (all different) and metrics."""
    asked = list(metrics) if metrics else [*usable_metrics()]
    ready = [load_metric(metric) for metric in asked]
    labels: list[str] = []
    for given, metric in zip(asked, ready, strict=True):
        label = given.strip() if isinstance(given, str) else metric.name
        same = sum(known.partition("#")[0] == label for known in labels)
        labels.append(f"{label}#{same + 1}" if same else label)
    return labels, ready


def _with_surface(pairs: Sequence[LandscapePair], asked: LandscapeSettings) -> set[int]:
    """The first pair of each subject, of as many subjects as were asked for."""
    first: dict[str, int] = {}
    for number, pair in enumerate(pairs):
        first.setdefault(pair.subject, number)
    return set(list(first.values())[: asked.surfaces or None])


def _doubts(rows: Sequence[LandscapeRow], asked: LandscapeSettings) -> list[str]:
    """A pair that most metrics would rather have elsewhere may not be aligned."""
    middle = float(np.median([row["offset"] for row in rows]))
    if middle < DOUBTFUL * asked.fine_reach:
        return []
    return [f"Half of the metrics put the optimum {middle:.1f} or more from the truth: is the pair aligned?"]


def _about(pairs: Sequence[LandscapePair], asked: LandscapeSettings) -> list[str]:
    """What a reader must know to read the table."""
    subjects = len({pair.subject for pair in pairs})
    said = [
        f"{len(pairs)} pair{'s' * (len(pairs) != 1)} of {subjects} subject{'s' * (subjects != 1)}; seed {asked.seed}."
    ]
    if subjects < FEWEST_SUBJECTS:
        said.append("No intervals: the bootstrap draws subjects and needs three. One pair says little about another.")
    return said
