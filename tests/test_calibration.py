"""Calibration of predicted errors: quantiles by hand, coverage of simulated subjects, MAPIE's bounds, files, drift."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.conformity_scores import AbsoluteConformityScore
from mapie.regression import SplitConformalRegressor
from sklearn.base import BaseEstimator, RegressorMixin

from regsim.errors import InputError, SettingsError
from regsim.evaluation.calibration import (
    KnownError,
    calibrate,
    coverage_curve,
    coverage_table,
    quantile_table,
    reliability,
)
from regsim.evaluation.calibration_rows import CoverageRow
from regsim.metrics.error_calibration import (
    LEVELS,
    OFFSET,
    PROBABILITIES,
    Calibration,
    Level,
    Summaries,
    attainable,
    scaled_residual,
)

Array = npt.NDArray[np.float64]
NOTHING = np.zeros(1)


def known(
    subject: str, expected: Array, spread: Array, truth: Array, summary: Array = NOTHING, name: str = "pair"
) -> KnownError:
    """The same values as voxels and as regions; their first as the mean."""
    first = float(expected[0]), float(spread[0]), float(truth[0])
    return KnownError(subject, name, expected, spread, truth, expected, spread, truth, *first, summary)


def truth_of(expected: Array, spread: Array, scores: Array) -> Array:
    """The true error that has these scores, 0 at least."""
    return np.maximum((expected + OFFSET) * np.exp(scores * spread) - OFFSET, 0.0)


def simulated(
    subjects: int,
    seed: int,
    pairs: int = 2,
    voxels: int = 40,
    between: float = 0.5,
    stated: float = 1.0,
    first: int = 0,
) -> list[KnownError]:
    """Exchangeable subjects, each with its own bias of the scores; the true spread grows with the error.

    `stated`: the spread that is predicted, as a multiple of the true one.
    """
    generator = np.random.default_rng(seed)
    found = []
    for subject in range(first, first + subjects):
        bias = between * generator.normal()
        for number in range(pairs):
            expected = generator.gamma(1.5, 2.0, voxels)
            spread = 0.05 + 0.1 * expected
            truth = truth_of(expected, spread, bias + generator.normal(size=voxels))
            summary = generator.normal(size=3)
            found.append(known(f"s{subject}", expected, stated * spread, truth, summary, f"s{subject}-{number}"))
    return found


def fitted(pairs: Sequence[KnownError]) -> Calibration:
    return calibrate(pairs, "model", "simulated", "mm")


def row(rows: Sequence[CoverageRow], level: Level, nominal: float) -> CoverageRow:
    return next(row for row in rows if row.level == level and row.nominal == nominal)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fitted(simulated(40, seed=1))


# --- quantiles by hand ------------------------------------------------------------------------------------------------


def test_quantiles_of_nineteen_subjects_with_one_value_each() -> None:
    """n = 19: a new subject weighs a twentieth. The bound at 0.95 is the 19th value, at 0.9 the 18th."""
    table = dict(zip(PROBABILITIES, quantile_table(np.arange(1.0, 20.0), np.ones(19), 19), strict=True))
    assert [table[p] for p in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)] == [10, 12, 14, 16, 17, 18, 19]
    assert [table[p] for p in (0.4, 0.3, 0.2, 0.15, 0.1, 0.05)] == [8, 6, 4, 3, 2, 1]
    assert (table[0.995], table[0.005]) == (19, 1)
    assert [attainable(p, 19) for p in (0.95, 0.975)] == [True, False]


def test_quantiles_without_guarantee_are_those_of_the_pooled_values() -> None:
    """Two subjects of 100 values each, too few for any guarantee: the pooled quantile serves."""
    scores = np.concatenate([np.arange(100.0), 100 + np.arange(100.0)])
    table = dict(zip(PROBABILITIES, quantile_table(scores, np.full(200, 0.01), 2), strict=True))
    assert (table[0.6], table[0.7]) == (119, 139)
    assert (table[0.95], table[0.99]) == (189, 197)
    assert (table[0.4], table[0.05], table[0.01]) == (80, 10, 2)


def test_one_pair_by_hand() -> None:
    """Scores 0 and 2 log 2: upper bounds (e + D) 4^s - D."""
    pairs = [
        known("a", np.array([1.0]), np.array([0.5]), np.array([1.0])),
        known("b", np.array([1.0]), np.array([0.5]), np.array([2.5])),
    ]
    made = fitted(pairs)
    assert made.upper(1.0, 0.5, 0.9, "mean") == pytest.approx(2.5)
    assert made.upper(1.0, 1.0, 0.9, "voxel") == pytest.approx(5.5)
    assert made.lower(1.0, 0.5, 0.9, "region") == pytest.approx(1.0)
    assert made.upper(1.0, 0.5, 0.5, "mean") == pytest.approx(1.5 * math.sqrt(2) - 0.5)
    assert (made.subjects, made.pairs, made.voxels) == (2, 2, 2)


@pytest.mark.parametrize(("coverage", "subjects"), [(0.8, 9), (0.9, 19), (0.95, 39), (0.99, 199)])
def test_guarantee_needs_so_many_subjects(coverage: float, subjects: int) -> None:
    assert attainable((1 + coverage) / 2, subjects)
    assert not attainable((1 + coverage) / 2, subjects - 1)


def test_between_the_table_is_interpolated(calibration: Calibration) -> None:
    table = calibration.quantiles["mean"]
    here, there = PROBABILITIES.index(0.9), PROBABILITIES.index(0.925)
    wanted = 1.5 * math.exp((0.6 * table[here] + 0.4 * table[there]) * 0.3) - 0.5
    assert calibration.upper(1.0, 0.3, 0.91, "mean") == pytest.approx(wanted)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_subject_with_many_voxels_or_pairs_does_not_dominate() -> None:
    """A subject with 100 times the voxels, or with each pair 20 times, changes no quantile."""
    alike = [
        known(f"s{i}", np.ones(4), np.ones(4), truth_of(np.ones(4), np.ones(4), i + np.arange(4) / 4))
        for i in range(20)
    ]
    last = alike[-1]
    many = replace(
        last,
        voxel_expected=np.repeat(last.voxel_expected, 100),
        voxel_spread=np.repeat(last.voxel_spread, 100),
        voxel_truth=np.repeat(last.voxel_truth, 100),
    )
    usual = fitted(alike)
    assert fitted([*alike[:-1], many]).quantiles["voxel"] == pytest.approx(usual.quantiles["voxel"])
    repeated = fitted([*alike[:-1], *([last] * 20)])
    for level in LEVELS:
        assert repeated.quantiles[level] == pytest.approx(usual.quantiles[level])
    assert (repeated.pairs, repeated.subjects) == (39, 20)


def test_coverage_weighs_subjects_and_names_the_worst(calibration: Calibration) -> None:
    good = known("good", np.ones(2), np.full(2, 0.2), np.ones(2))
    bad = known("bad", np.ones(1000), np.full(1000, 0.2), np.full(1000, 50.0))
    found = row(coverage_table(calibration, [good, bad, good]), "voxel", 0.9)
    assert (found.observed, found.above, found.below) == (0.5, 0.5, 0.0)
    assert (found.worst_subject, found.worst_coverage, found.subjects) == ("bad", 0.0, 2)


# --- coverage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [0.0, 1.0])
@pytest.mark.parametrize("stated", [1 / 3, 1.0, 3.0])
def test_coverage_of_new_subjects_is_as_promised(between: float, stated: float) -> None:
    """39 subjects allow 95 %; judged on 400 new ones, mean over 6 calibrations (each has its own luck).

    With many values a subject the correction moves each bound to the probability p (n + 1) / n; with few, to p.
    """
    rows = [
        coverage_table(
            fitted(simulated(39, seed=10 + run, between=between, stated=stated)),
            simulated(400, seed=50 + run, between=between, stated=stated, pairs=1, voxels=20),
        )
        for run in range(6)
    ]
    for level in LEVELS:
        for nominal in (0.8, 0.9, 0.95):
            found = [row(each, level, nominal) for each in rows]
            assert all(each.guaranteed for each in found)
            cautious = 1 - 2 * (1 - (1 + nominal) / 2 * 40 / 39)
            assert nominal - 0.02 <= np.mean([each.observed for each in found]) <= cautious + 0.02
            assert level == "mean" or np.mean([each.observed for each in found]) >= cautious - 0.02


@pytest.mark.parametrize("values", [1, 8])
def test_guarantee_holds_on_average_over_calibrations(values: int) -> None:
    """19 subjects just allow 90 %. With one value each a new one is the least or the greatest of 20 in a tenth of cases."""
    generator, hits = np.random.default_rng(values), []
    for _ in range(2000):
        scores = generator.normal(size=(20, 1)) + 0.7 * generator.standard_t(3, (20, values))
        table = quantile_table(scores[:19].ravel(), np.full(19 * values, 1 / values), 19)
        low, high = table[PROBABILITIES.index(0.05)], table[PROBABILITIES.index(0.95)]
        hits.append(np.mean((scores[19] >= low) & (scores[19] <= high)))
    error = np.std(hits) / math.sqrt(len(hits))
    assert np.mean(hits) >= 0.9 - 2.5 * error
    if values == 1:
        assert np.mean(hits) <= 0.9 + 2.5 * error


def test_coverage_where_the_spread_is_adversarial() -> None:
    """A spread that says the opposite of the truth: wide intervals where errors are sure. Coverage holds all the same."""

    def adversarial(subjects: int, seed: int) -> list[KnownError]:
        generator, found = np.random.default_rng(seed), []
        for subject in range(subjects):
            expected = generator.uniform(0, 4, 30)
            real = np.where(expected > 2, 0.8, 0.05)
            truth = truth_of(expected, real, generator.standard_t(3, 30))
            found.append(known(f"s{subject}", expected, 0.85 - real, truth))
        return found

    rows = [coverage_table(fitted(adversarial(60, seed)), adversarial(200, seed + 100)) for seed in range(5)]
    assert np.mean([row(each, "voxel", 0.9).observed for each in rows]) == pytest.approx(0.91, abs=0.025)


def test_errors_that_are_exactly_zero_are_covered() -> None:
    """Half of all true errors are 0: an atom; coverage is not below the nominal one, and bounds stay finite."""

    def atoms(subjects: int, seed: int) -> list[KnownError]:
        generator, found = np.random.default_rng(seed), []
        for subject in range(subjects):
            truth = np.where(generator.random(30) < 0.5, 0.0, generator.exponential(2.0, 30))
            found.append(known(f"s{subject}", np.full(30, 0.3), np.full(30, 0.4), truth))
        return found

    made = fitted(atoms(60, 1))
    for found in coverage_table(made, atoms(300, 2)):
        assert found.observed >= found.nominal - 0.04
        assert math.isfinite(found.mean_width)


def test_intervals_shrink_where_the_stated_spread_is_too_wide() -> None:
    """Spreads stated 3 times too wide give the same intervals: scores are a third."""
    new, new_wide = simulated(50, seed=3), simulated(50, seed=3, stated=3.0)
    usual, wide = fitted(simulated(40, seed=1)), fitted(simulated(40, seed=1, stated=3.0))
    for level in LEVELS:
        assert np.array(wide.quantiles[level]) * 3 == pytest.approx(np.array(usual.quantiles[level]))
    for first, second in zip(coverage_table(usual, new), coverage_table(wide, new_wide), strict=True):
        assert second.mean_width == pytest.approx(first.mean_width)
        assert second.median_width == pytest.approx(first.median_width)
        assert second.observed == pytest.approx(first.observed)


def test_curve_and_reliability() -> None:
    made, new = fitted(simulated(60, seed=4)), simulated(200, seed=5)
    curve = coverage_curve(made, new, "voxel")
    assert all(abs(point.observed - point.nominal) < 0.09 for point in curve)
    assert all(here.observed <= there.observed for here, there in pairwise(curve))
    bins = reliability(made, new, "voxel")
    assert len(bins) == 10
    assert sum(point.count for point in bins) == 200 * 2 * 40
    assert all(here.predicted < there.predicted for here, there in pairwise(bins))
    assert all(point.lower < point.observed < point.upper for point in bins)
    assert max(point.count for point in bins) < 1.1 * min(point.count for point in bins)


def test_reliability_of_equal_predictions_is_one_bin(calibration: Calibration) -> None:
    found = reliability(calibration, [known("a", np.ones(5), np.ones(5), np.arange(5.0))], "voxel")
    assert [(point.predicted, point.observed, point.count) for point in found] == [(1.0, 2.0, 5)]
    assert len(reliability(calibration, [known("a", np.ones(5), np.ones(5), np.ones(5))], "mean")) == 1


# --- beside MAPIE -----------------------------------------------------------------------------------------------------


class Expected(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted regressor that predicts 0: the scores are the target."""

    def __init__(self) -> None:
        self.fitted_ = True
        self.n_features_in_ = 1

    def fit(self, X: Array, y: Array) -> "Expected":
        return self

    def predict(self, X: Array) -> Array:
        return np.zeros(len(X))


@pytest.mark.parametrize("subjects", [19, 40, 57, 100, 231])
def test_bounds_are_those_of_mapie(subjects: int) -> None:
    """One value a subject: MAPIE's split conformal bounds of the scores are our quantiles, both tails, corrected for n.

    Where MAPIE's bounds are infinite, ours are the pooled ones and not guaranteed.
    """
    generator = np.random.default_rng(subjects)
    expected, spread = generator.gamma(1.5, 2.0, subjects), generator.uniform(0.1, 0.6, subjects)
    truth = generator.gamma(1.5, 2.0, subjects)
    pairs = [known(f"s{i}", *(values[i : i + 1] for values in (expected, spread, truth))) for i in range(subjects)]
    made = fitted(pairs)
    coverages = [0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.96, 0.98, 0.99]
    scores = scaled_residual(truth, expected, spread)
    peer = SplitConformalRegressor(Expected(), coverages, AbsoluteConformityScore(sym=False), prefit=True)
    peer.conformalize(np.zeros((subjects, 1)), scores)
    bounds = peer.predict_interval(np.zeros((1, 1)), allow_infinite_bounds=True)[1][0]
    for coverage, (low, high) in zip(coverages, bounds.T, strict=True):
        assert made.guaranteed(coverage) == math.isfinite(high) == math.isfinite(low)
        found = made.interval(2.0, 0.3, coverage, "voxel")
        if made.guaranteed(coverage):
            wanted = truth_of(np.array([2.0, 2.0]), np.array([0.3, 0.3]), np.array([low, high]))
        else:
            wanted = truth_of(np.array([2.0, 2.0]), np.array([0.3, 0.3]), np.array([scores.min(), scores.max()]))
        assert found == pytest.approx(tuple(wanted), rel=1e-9)


# --- properties -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    expected=st.floats(0, 200),
    spread=st.floats(0, 5),
    coverages=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(sorted),
    level=st.sampled_from(LEVELS),
)
def test_intervals_are_nested_and_never_negative(
    expected: float, spread: float, coverages: list[float], level: Level
) -> None:
    made = PROPERTIES
    (low, high), (lower, upper) = (made.interval(expected, spread, coverage, level) for coverage in coverages)
    assert 0 <= lower <= low <= high <= upper < math.inf
    assert upper == pytest.approx(made.upper(expected, spread, (1 + coverages[1]) / 2, level))
    assert lower == pytest.approx(made.lower(expected, spread, (1 + coverages[1]) / 2, level))


PROPERTIES = fitted(simulated(12, seed=9))


def test_float32_agrees_with_float64_and_nan_stays(calibration: Calibration) -> None:
    generator = torch.Generator().manual_seed(0)
    expected = torch.rand(3, 50, 60, generator=generator, dtype=torch.float64) * 20
    spread = torch.rand(3, 50, 60, generator=generator, dtype=torch.float64)
    exact = calibration.interval(expected, spread, 0.95, "voxel")
    single = calibration.interval(expected.float(), spread.float(), 0.95, "voxel")
    for here, there in zip(single, exact, strict=True):
        assert here.dtype == torch.float32
        assert here.shape == expected.shape
        torch.testing.assert_close(here.double(), there, rtol=2e-6, atol=2e-6)
    number = calibration.upper(float(expected[0, 0, 0]), float(spread[0, 0, 0]), 0.975, "voxel")
    assert number == pytest.approx(float(exact[1][0, 0, 0]), rel=1e-12)
    gap = calibration.upper(torch.tensor([math.nan, 1.0]), torch.tensor([0.1, 0.1]), 0.9, "voxel")
    assert torch.isnan(gap).tolist() == [True, False]


def test_bounds_do_not_overflow() -> None:
    """Spreads at their floor, errors far off: scores above 100. Bounds for a wide spread stay finite in float32."""
    sure = [known(f"s{i}", np.zeros(3), np.zeros(3), np.full(3, 50.0 + i)) for i in range(5)]
    bound = fitted(sure).upper(torch.tensor([0.0, 100.0]), torch.tensor([2.0, 0.5]), 0.9, "voxel")
    assert torch.isfinite(bound).all()
    assert fitted(sure).upper(0.0, 0.0, 0.8, "voxel") == pytest.approx(53.0)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda made: made.upper(1.0, 0.1, 0.999, "voxel"), "0.005 to 0.995"),
        (lambda made: made.lower(1.0, 0.1, 0.999, "voxel"), "0.005 to 0.995"),
        (lambda made: made.interval(1.0, 0.1, 0.995, "mean"), "0.99 at most"),
        (lambda made: made.interval(1.0, 0.1, 95, "mean"), "from 0 to below 1, got 95"),
        (lambda made: made.upper(1.0, 0.1, 0.2, "mean"), "from 0.5"),
        (lambda made: made.upper(1.0, 0.1, 0.9, "regions"), "did you mean 'region'"),
        (lambda made: made.guaranteed(math.nan), "coverage"),
    ],
)
def test_probabilities_beyond_the_table_are_refused(
    calibration: Calibration, call: Callable[[Calibration], object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        call(calibration)


def test_negative_predictions_are_refused(calibration: Calibration) -> None:
    with pytest.raises(InputError, match="negative"):
        calibration.upper(-1.0, 0.1, 0.9, "mean")
    with pytest.raises(InputError, match="negative"):
        calibration.interval(torch.ones(2), torch.tensor([0.1, -0.1]), 0.9, "mean")


def test_pairs_that_cannot_be_used_are_refused() -> None:
    good = simulated(3, seed=0, pairs=1)
    nan, one = np.full(40, math.nan), np.ones(1)
    cases = [
        ([], "got none"),
        (good[:1], "at least 2 subjects"),
        ([*good, replace(good[0], voxel_truth=nan)], "'s0-0', voxel: holds values"),
        ([*good, replace(good[0], mean_truth=-1.0)], "'s0-0', mean: holds values"),
        ([*good, replace(good[0], region_truth=one)], "one length"),
        ([*good, replace(good[0], voxel_expected=one[:0], voxel_spread=one[:0], voxel_truth=one[:0])], "one length"),
        ([*good, replace(good[0], summary=np.ones(4))], "summary of"),
        ([*good, replace(good[0], summary=np.full(3, math.inf))], "summary holds"),
    ]
    for pairs, words in cases:
        with pytest.raises(InputError, match=words):
            fitted(pairs)
    with pytest.raises(InputError, match="got none"):
        coverage_table(fitted(good), [])
    with pytest.raises(SettingsError, match="at least 1 bin"):
        reliability(fitted(good), good, "voxel", bins=0)


# --- files ------------------------------------------------------------------------------------------------------------


def test_round_trip_through_a_file(calibration: Calibration, tmp_path: Path) -> None:
    calibration.write(tmp_path / "calibration.json")
    assert Calibration.of_json(tmp_path / "calibration.json") == calibration
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def damaged(values: dict[str, object], **changes: object) -> str:
    return json.dumps({**values, **changes})


def test_bad_files_are_refused_in_one_line(calibration: Calibration, tmp_path: Path) -> None:
    values = calibration.model_dump(mode="json")
    tables, summaries = values["quantiles"], values["summaries"]
    falling = {**tables, "voxel": tables["voxel"][::-1]}
    short = {**tables, "mean": tables["mean"][1:]}
    gap = {**tables, "mean": [math.nan, *tables["mean"][1:]]}
    cases = {
        "not JSON": "{",
        "a calibration \\(a JSON object": "[1]",
        "format 1, its 'format' is 2": damaged(values, format=2),
        "its 'format' is None": "{}",
        "'voxel' fall": damaged(values, quantiles=falling),
        "quantiles of level 'mean', got 24": damaged(values, quantiles=short),
        "quantiles.mean.0.*finite": damaged(values, quantiles=gap),
        "'region' are missing": damaged(values, quantiles={key: tables[key] for key in ("voxel", "mean")}),
        "unknown quantiles.side": damaged(values, quantiles={**tables, "side": tables["mean"]}),
        "'probabilities' that rise": damaged(values, probabilities=values["probabilities"][::-1]),
        "pairs of 39 subjects": damaged(values, subjects=39),
        "unknown setting 'modell'": damaged(values, modell="x"),
        "is missing": json.dumps({key: value for key, value in values.items() if key != "model"}),
        "'precision' of 3 x 3": damaged(values, summaries={**summaries, "precision": [[1.0]]}),
        "positive definite": damaged(values, summaries={**summaries, "precision": (-np.eye(3)).tolist()}),
        "positive 'scale'": damaged(values, summaries={**summaries, "scale": [0.0, 1.0, 1.0]}),
        "'distances' of every": damaged(values, summaries={**summaries, "distances": [[2.0, 1.0]] * 40}),
    }
    path = tmp_path / "calibration.json"
    for words, text in cases.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=words) as caught:
            Calibration.of_json(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not JSON"):
        Calibration.of_json(path)
    for missing in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            Calibration.of_json(missing)
    with pytest.raises(InputError, match="make it first"):
        calibration.write(tmp_path / "none" / "calibration.json")


# --- drift ------------------------------------------------------------------------------------------------------------


def seen(subjects: int, seed: int, pairs: int = 1, within: float = 0.3, shift: float = 0.0) -> list[KnownError]:
    """Subjects whose summaries are correlated, of very different units, and alike within a subject."""
    generator, mixing = np.random.default_rng(seed), np.array([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [0.0, 0.5, 1.0]])
    found = []
    for subject in range(subjects):
        own = generator.normal(size=3) + shift
        for _ in range(pairs):
            summary = (mixing @ (own + within * generator.normal(size=3))) * np.array([1e-3, 1.0, 1e4])
            found.append(known(f"s{subject}", np.ones(2), np.ones(2), np.ones(2), summary))
    return found


def test_drift_is_rare_among_subjects_alike_and_found_in_shifted_ones() -> None:
    made = fitted(seen(60, seed=0))
    alike = [made.drift(pair.summary) for pair in seen(400, seed=1)]
    p_values = np.array([drift.p_value for drift in alike])
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.08)
    assert np.abs(np.quantile(p_values, (0.1, 0.25, 0.5, 0.75, 0.9)) - (0.1, 0.25, 0.5, 0.75, 0.9)).max() < 0.12
    assert np.mean([drift.distance > drift.typical for drift in alike]) == pytest.approx(0.05, abs=0.05)
    shifted = [made.drift(torch.from_numpy(pair.summary)) for pair in seen(50, seed=2, shift=5.0)]
    assert max(drift.p_value for drift in shifted) == pytest.approx(1 / 61)
    assert all(drift.distance > 1.2 * drift.typical for drift in shifted)


def test_drift_by_hand() -> None:
    """Distances 1, 2 and 3, 3 of two subjects around 0: equal ones count as far."""
    place = Summaries(centre=(0.0,), scale=(2.0,), precision=((4.0,),), distances=((1.0, 2.0), (3.0, 3.0)))
    made = fitted(simulated(2, seed=0)).model_copy(update={"summaries": place})
    drift = made.drift([-2.0])
    assert drift.distance == 2.0
    assert (drift.p_value, drift.p_value_by_subject) == (pytest.approx(4 / 5), pytest.approx(2.5 / 3))
    assert drift.typical == 3.0


def test_drift_does_not_depend_on_units() -> None:
    units = np.array([1e-5, 1.0, 1e7])
    usual, new = seen(12, seed=8, pairs=2), seen(1, seed=9)[0].summary
    other = fitted([replace(pair, summary=pair.summary * units) for pair in usual])
    assert other.drift(new * units).distance == pytest.approx(fitted(usual).drift(new).distance, rel=1e-6)


def test_drift_counts_subjects_once() -> None:
    """Ten subjects whose 20 pairs are nearly equal: a new one is the farthest once in eleven times, not once in 201."""
    by_pair, by_subject = [], []
    for run in range(40):
        pairs = seen(11, seed=run, pairs=20, within=0.02)
        drift = fitted(pairs[:200]).drift(pairs[200].summary)
        by_pair.append(drift.p_value)
        by_subject.append(drift.p_value_by_subject)
        assert drift.p_value_by_subject >= 1 / 11
    assert np.mean(np.array(by_subject) <= 0.1) <= 0.25
    assert np.mean(np.array(by_pair) <= 0.1) >= np.mean(np.array(by_subject) <= 0.1)


def test_one_pair_a_subject_has_one_p_value() -> None:
    made = fitted(seen(30, seed=3))
    for pair in seen(20, seed=4):
        drift = made.drift(pair.summary)
        assert drift.p_value == pytest.approx(drift.p_value_by_subject)
    assert made.drift(list(made.summaries.centre)).p_value == 1.0


def test_summaries_that_are_constant_few_or_far_can_be_fitted() -> None:
    same = [replace(pair, summary=np.array([0.0, 7.0, float(place)])) for place, pair in enumerate(seen(5, seed=5))]
    made = fitted(same)
    assert made.drift([0.0, 7.0, 2.0]).distance == pytest.approx(0.0)
    assert made.drift([0.0, 8.0, 2.0]).distance > 1.0
    assert fitted(same[:2]).drift([0.0, 7.0, 1e6]).p_value == pytest.approx(1 / 3)
    outlier = [*seen(30, seed=6), *[replace(seen(1, seed=7)[0], subject="far", summary=np.full(3, 1e12))]]
    assert fitted(outlier).drift(np.array([0.01, 10.0, 1e5])).p_value <= 2 / 32


def test_summaries_of_another_length_are_refused(calibration: Calibration) -> None:
    with pytest.raises(InputError, match="expected \\(3,\\)"):
        calibration.drift([1.0, 2.0])
    with pytest.raises(InputError, match="not finite"):
        calibration.drift([1.0, 2.0, math.nan])


def test_lower_bounds_that_cannot_be_resolved_are_zero() -> None:
    pairs = [known(f"s{n}", np.full(9, 1.0), np.full(9, 0.3), np.linspace(0.6, 1.4, 9)) for n in range(20)]
    plain, floored = (calibrate(pairs, "m", "", "mm", resolution) for resolution in (0.0, 0.5))
    expected = torch.tensor([0.3, 3.0])
    low, high = floored.interval(expected, torch.full((2,), 0.2), 0.8, "voxel")
    assert low[0] == 0
    assert low[1] == plain.lower(expected, torch.full((2,), 0.2), 0.9, "voxel")[1] > 0.5
    assert torch.equal(high, plain.interval(expected, torch.full((2,), 0.2), 0.8, "voxel")[1])
    assert floored.interval(0.3, 0.2, 0.8, "voxel")[0] == 0.0 == floored.lower(0.3, 0.2, 0.9, "voxel")


def test_the_file_keeps_the_reliability_curve(tmp_path: Path) -> None:
    pairs = [known(f"s{n}", np.linspace(0.5, 5, 40), np.full(40, 0.2), np.linspace(0.6, 5.1, 40)) for n in range(4)]
    made = calibrate(pairs, "m", "", "mm")
    points = reliability(made, pairs, "voxel")
    assert made.reliability["voxel"] == tuple((p.predicted, p.observed, p.lower, p.upper) for p in points)
    made.write(tmp_path / "c.json")
    assert Calibration.of_json(tmp_path / "c.json") == made


def test_fitted_pairs_have_a_calibration_of_their_own(tmp_path: Path) -> None:
    def pairs(truth: float) -> list[KnownError]:
        return [known(f"s{n}", np.full(9, 1.0), np.full(9, 0.3), np.full(9, truth)) for n in range(4)]

    made = calibrate(pairs(1.0), "m", "", "mm", fitted=pairs(2.5))
    assert made.fitted is not None
    assert made.middle(1.0, 0.3, "voxel") == pytest.approx(1.0)
    assert made.fitted.middle(1.0, 0.3, "voxel") == pytest.approx(2.5)
    assert made.fitted.middle(1.0, 0.3, "mean") == pytest.approx(2.5)
    made.write(tmp_path / "c.json")
    assert Calibration.of_json(tmp_path / "c.json") == made
    assert calibrate(pairs(1.0), "m", "", "mm", fitted=pairs(2.5)[:1]).fitted is None
