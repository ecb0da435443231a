"""DeepSim as published, within one contrast: `python -m benchmarks.within_contrast SET -o DIR -m LABEL=MODEL_DIR [...]`.

    python -m benchmarks.manifests lists
    regsim train deepsim-segmentation --data lists/em.csv -o em-segmentation --set shares=[0.67,0.33,0.0]
    python -m benchmarks.within_contrast em -o within -m ncc -m mind -m segmentation/seed0=em-segmentation

Sets: em (neighbouring sections of a stack that no training saw, vnc_b), t1 (slices 3 mm apart of 19 people that no training saw).
Known misalignments of up to 12 px, both images resampled. A model of several levels is also judged level by level and with
centred features. Rows go to DIR/SET.csv; labels NAME/seed0, NAME/seed1 ... are also given as mean and spread.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.contrasts import labelled
from benchmarks.manifests import write_manifests
from benchmarks.rows import write_machine
from regsim.evaluation.known_pairs import KnownPairs, draw_known_pairs, judge
from regsim.metrics import AbstractMetric, load_metric
from regsim.metrics.deepsim import DeepSimilarity
from regsim.misalign.pairs import PairMaker
from regsim.misalign.sources import read_subjects
from regsim.training.feature_recipe import FeatureRecipe
from regsim.training.recipe import load_recipe

TESTS = {"em": "test_em", "t1": "test_t1"}
FIGURES = ("spearman", "spearman_outline_hidden", "auc")
LEAST, SEED = 2.0, 2


def pairs_of(name: str, lists: Path, count: int) -> KnownPairs:
    """Pairs of unseen subjects, as the recipes of the published kind draw them."""
    recipe = load_recipe("deepsim-segmentation")
    assert isinstance(recipe, FeatureRecipe)
    subjects = read_subjects(write_manifests(lists)[TESTS[name]], recipe.source)
    return draw_known_pairs(PairMaker(subjects, recipe.pairs), count, SEED, LEAST)


def variants(label: str, spec: str) -> dict[str, AbstractMetric]:
    """The metric; of a model of several levels also each level, and all of them with centred features."""
    metric = load_metric(spec)
    if not isinstance(metric, DeepSimilarity) or len(metric.card.network.get("levels", ())) < 2:  # type: ignore[arg-type]
        return {label: metric}
    kind, slash, seed = label.partition("/")
    found: dict[str, AbstractMetric] = {label: metric}
    for level, name in enumerate(metric.card.network["levels"]):  # type: ignore[arg-type]
        found[f"{kind} {name}{slash}{seed}"] = DeepSimilarity(spec, levels=(level,))
    found[f"{kind} centred{slash}{seed}"] = DeepSimilarity(spec, centred=True)
    return found


def measure(name: str, specs: Sequence[str], output: Path, count: int) -> list[dict[str, str | float]]:
    """One row a metric and variant."""
    pairs = pairs_of(name, output / "lists", count)
    rows: list[dict[str, str | float]] = []
    for label, spec in map(labelled, specs):
        for variant, metric in variants(label, spec).items():
            figures = judge(metric.eval(), pairs)
            rows.append({"metric": variant} | {figure: float(figures[figure]) for figure in FIGURES})  # type: ignore[arg-type]
    return rows


def summary(rows: Sequence[dict[str, str | float]]) -> dict[str, list[str]]:
    """Figures of each kind: mean and standard deviation over its seeds."""
    found = {}
    for kind in dict.fromkeys(str(row["metric"]).partition("/")[0] for row in rows):
        own = [row for row in rows if str(row["metric"]).partition("/")[0] == kind]
        values = {figure: np.array([float(row[figure]) for row in own]) for figure in FIGURES}
        several = len(own) > 1
        found[kind] = [f"{v.mean():.3f}" + (f" ± {v.std(ddof=1):.3f}" if several else "") for v in values.values()]
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=TESTS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("-m", "--metric", action="append", default=[], dest="metrics")
    parser.add_argument("--count", type=int, default=240, help="pairs of each kind")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    rows = measure(asked.set, asked.metrics, asked.output, asked.count)
    with (asked.output / f"{asked.set}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ("metric", *FIGURES))
        writer.writeheader()
        writer.writerows(rows)
    write_machine(asked.output)
    screen = Table("metric", "Spearman", "outline hidden", "AUC of 2 px", title=asked.set)
    for kind, cells in summary(rows).items():
        screen.add_row(kind, *cells)
    Console().print(screen)


if __name__ == "__main__":
    main()
