"""Put the figures of docs/registration-error onto the card of the bundled model of volumes, and the facts onto that of pictures:

python -m benchmarks.registration_error_card docs/registration-error src/regsim/metrics/models/registration-error-3d
python -m benchmarks.registration_error_card docs/registration-error src/regsim/metrics/models/registration-error-2d
"""

import csv
import json
import sys
from pathlib import Path

from regsim.metrics.checkpoint import CARD, DataSource, read_card
from regsim.output import write_text

NOTES = (
    "Figures: heads that no training saw, contrast pairs that no training saw (T1, T2 and FLAIR scans of other cohorts); "
    "python -m benchmarks.registration_error, docs/check.md.",
    "Learnt from T1 scans, restyled at random, and painted label maps of heads; never shown: bodies, animals, microscopy, "
    "CT, ultrasound, children, errors above 20 mm.",
    "Fails: deformable registrations between contrasts (what matches by MIND but is wrong reads small; a check that is given the "
    "transform says instead what such registrations leave); mirrored "
    "heads, which are nearly aligned heads; errors along structures without features.",
)
NOTES_2D = (
    "Figures: made pairs of test subjects that no training saw, restyled as in training; errors in px.",
    "Learnt from planes of T1 scans, restyled at random, and of painted label maps of heads; never shown: microscopy, histology, "
    "photographs, errors above 20 px.",
    "Fails: as the model of volumes does, and where anatomy leaves the plane.",
)
DATA = (
    DataSource(
        name="IXI",
        licence="CC BY-SA 3.0",
        source="https://brain-development.org/ixi-dataset",
        credit="IXI dataset, Biomedical Image Analysis Group, Imperial College London",
    ),
    DataSource(
        name="brain_label_maps (SynthSeg)",
        licence="Apache-2.0",
        source="https://github.com/BBillot/SynthSeg",
        credit="Billot et al. 2023, doi:10.1016/j.media.2023.102789",
    ),
)
CALIBRATED = DataSource(
    name="brain_t1t2_mni and brain_t1t2_native (open_ms_data), calibration only",
    licence="CC BY 4.0",
    source="https://github.com/muschellij2/open_ms_data",
    credit="Lesjak et al. 2017, doi:10.1007/s12021-017-9348-7; Lesjak et al. 2016",
)


def main() -> None:
    tables, model = Path(sys.argv[1]), Path(sys.argv[2])
    card = read_card(model)
    flat = card.network["dims"] == 2
    figures = card.figures if flat else figures_of(tables)
    kept = tuple(note for note in card.notes if not note.startswith(("Figures:", "Learnt from", "Fails:")))
    notes, data = (NOTES_2D, DATA) if flat else (NOTES, (*DATA, CALIBRATED))
    changes = {"figures": figures, "notes": (*kept, *notes), "data": data, "licence": "CC BY-SA 4.0"}
    full = card.model_copy(update=changes)
    write_text(model / CARD, json.dumps(full.model_dump(mode="json"), indent=1) + "\n")


def figures_of(tables: Path) -> dict[str, float | str | tuple[float, ...]]:
    """The main figures of the tables; "spearman" is that of all drawn pairs."""
    figures: dict[str, float | str | tuple[float, ...]] = {}
    for row in read(tables / "local.csv"):
        if row["kind"] == "all":
            figures[f"voxel_error_{row['contrasts']}_mm"] = float(row["voxel_error_mm"])
    for row in read(tables / "ranks.csv"):
        if row["metric"] == "registration_error":
            figures[f"spearman_{row['set']}"] = float(row["spearman"])
            figures[f"auroc_3mm_{row['set']}"] = float(row["auroc_3mm"])
    for row in read(tables / "coverage.csv"):
        if row["set"] == "known" and row["calibration"] == "bundled":
            figures[f"coverage_{row['level']}_{float(row['nominal']):.0%}"] = float(row["observed"])
    return {"spearman": figures["spearman_known"], **figures}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main()
