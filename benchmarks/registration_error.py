"""How right `registration_error` and `regsim check` are on pairs of known error that no training saw.

    python -m benchmarks.known_error_pairs SET -o PAIRS/SET          draws the pairs
    python -m benchmarks.registration_error measure SET --pairs PAIRS -o RESULTS [--shard 0/2]
    python -m benchmarks.registration_error list -o pairs.csv        aligned pairs that calibrate the bundled model of volumes
    regsim calibrate pairs.csv --draws 8 -o calibration.json
    python -m benchmarks.registration_error list --pictures -o slices.csv
    regsim calibrate slices.csv --draws 6 --registered 0 -o slices.json --json -
    python -m benchmarks.registration_error tables --results RESULTS -o docs/registration-error

`measure` judges each pair as `regsim check` does, a file a pair, and goes on where it was stopped. `tables` makes the rows of
docs/check.md from these files.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from benchmarks.data import data_folder
from benchmarks.known_error_files import KnownErrorPair, read_pair
from benchmarks.registration_error_tables import write_tables
from regsim.applications.check import check_with
from regsim.applications.check_measure import CheckSettings
from regsim.evaluation.known_errors import judge_estimate
from regsim.kernels.memory import keep_freed_memory
from regsim.metrics import AbstractMetric, load_metric

LARGEST = 8.0
SCORES = ("mind", "nmi", "lncc", "ncc")
SESSIONS = ("sub-msl01_ses1", "sub-msl01_ses2", "sub-msl03_ses2")
CALIBRATION = (
    ("brain_t1t2_mni", "sub-msx07", "t1", "t1"),
    ("brain_t1t2_mni", "sub-msx07", "t1", "t2"),
    ("brain_t1t2_mni", "sub-msx07", "t1", "flair"),
    *((("brain_t1t2_native", session, "flair", contrast)) for session in SESSIONS for contrast in ("t1", "t2")),
    ("brain_t1t2_native", "sub-msl01_ses1", "t1", "t1"),
    ("brain_t1t2_native", "sub-msl03_ses2", "t1", "t1"),
    ("brain_t1_ixi_labels", "sub-ixi033", "t1", "t1"),
    ("brain_t1_ixi_labels", "sub-ixi012", "t1", "t1"),
)
SETS = ("known", "known-hidden", "residual", "unrelated", "failures")


def main() -> None:
    asked = _arguments()
    if asked.command == "tables":
        write_tables(asked.results, asked.output)
        return
    if asked.command == "list":
        (write_pictures if asked.pictures else write_list)(asked.output)
        return
    keep_freed_memory()
    torch.set_num_threads(asked.threads)
    shard, shards = (int(part) for part in asked.shard.split("/"))
    files = sorted((asked.pairs / asked.set).glob("*.npz"))[: asked.count][shard::shards]
    target = asked.output / asked.set
    target.mkdir(parents=True, exist_ok=True)
    scores = () if asked.set == "unrelated" else SCORES
    settings = CheckSettings(model=asked.model, calibration=asked.calibration, scores=scores)
    for file in track(files, asked.set):
        made = target / f"{file.stem}.npz"
        if not made.is_file():
            measure(read_pair(file), settings, "hidden" in asked.set, made)


def measure(pair: KnownErrorPair, settings: CheckSettings, hidden: bool, target: Path) -> None:
    """One pair as a check judges it, beside the truth; written as plain numbers."""
    began = time.perf_counter()
    moved = pair.moved
    found = check_with(settings, pair.fixed, moved, mask=pair.mask)
    seconds = time.perf_counter() - began
    estimate, box = found.measured.estimate, found.box
    where, truth = (each[0][box][None, None] for each in (pair.mask, pair.error))
    where = where & found.measured.part.mask[None, None]
    judged = judge_estimate(estimate, truth, where, pair.subject, pair.name)
    near = where & (truth < LARGEST)
    results = found.results
    about = {
        "name": pair.name, "subject": pair.subject, "contrasts": pair.contrasts, "kind": pair.kind,
        "related": pair.related, "voxels": int(where.sum()), "working_voxels": results.voxels,
        "truth": float(truth[where].mean()),
        "expected": results.expected_error, "lower": results.interval[0], "upper": results.interval[1],
        "voxel_error": float((estimate.expected - truth).abs()[near].mean()) if bool(near.any()) else None,
        "verdict": results.verdict, "reason": results.reason, "unrelated": results.unrelated,
        "overlap": results.overlap, "distance": results.trust.distance, "typical": results.trust.typical,
        "seconds": seconds, "hidden": hidden,
        "costs": {row.metric: _cost(row.metric, row.value) for row in results.scores},
    }  # fmt: skip
    known = judged.known
    arrays = {name: np.asarray(value) for name, value in vars(known).items() if name not in ("subject", "name")}
    part = target.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8), **arrays)
    part.replace(target)


def write_list(target: Path) -> None:
    """The calibration's pairs as `regsim calibrate` reads them."""
    place = data_folder()
    with target.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("name", "subject", "fixed", "moving", "initial"))
        for folder, subject, fixed, moving in CALIBRATION:
            person = subject.partition("_")[0]
            files = [place / folder / f"{subject}_{contrast}.nii.gz" for contrast in (fixed, moving)]
            own = fixed == moving or folder != "brain_t1t2_native"
            initial = "" if own else place / folder / f"{subject}_{moving}_onto_{fixed}_itk.txt"
            writer.writerow((f"{subject}_{fixed}_{moving}", person, *files, initial))


def write_pictures(target: Path) -> None:
    """Real slices that no training saw, T1 beside T1, T2 and FLAIR: `regsim calibrate` judges the model of pictures on them."""
    place = data_folder() / "slices_2d" / "tumor_t1_t2"
    with target.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("name", "subject", "fixed", "moving"))
        for fixed in sorted(place.glob("*_t1.png")):
            subject = fixed.name.removesuffix("_t1.png")
            for contrast in ("t1", "t2", "flair"):
                writer.writerow((f"{subject}_{contrast}", subject, fixed, place / f"{subject}_{contrast}.png"))


def _cost(name: str, value: float) -> float:
    metric: AbstractMetric = load_metric(name)
    return float(metric.cost(torch.tensor(value)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("set", choices=SETS)
    measuring.add_argument("--pairs", type=Path, required=True)
    measuring.add_argument("-o", "--output", type=Path, required=True)
    measuring.add_argument("--model", default="")
    measuring.add_argument("--calibration", type=Path, default=None)
    measuring.add_argument("--shard", default="0/1")
    measuring.add_argument("--count", type=int, default=None)
    measuring.add_argument("--threads", type=int, default=1)
    listing = commands.add_parser("list")
    listing.add_argument("-o", "--output", type=Path, required=True)
    listing.add_argument("--pictures", action="store_true", help="slices that judge the model of pictures")
    tables = commands.add_parser("tables")
    tables.add_argument("--results", type=Path, required=True)
    tables.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
