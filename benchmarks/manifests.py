"""Manifests of the real sets for `regsim train`: which files, which subjects, under which licence.

    python -m benchmarks.manifests OUT

writes `ship.csv` (sets whose terms allow weights that are given away), `heads.csv` (label maps), `features.csv` (what the
models of deepsim learn from: one patient's T1, T2 and FLAIR with a tissue map that is made here, by ANTs' Atropos on the T1;
labelled T1 scans; label maps), `evaluators.csv` (T1 alone, what the models of imse learn from), `translators.csv` (T1 and T2,
for imse's baselines), `test_t1.csv`, `test_multi.csv` and `test_contrasts.csv` (subjects that no training sees), `em.csv` and
`test_em.csv` (electron micrographs: one stack with its membranes to learn from, another to judge by), `labelled.csv` (the
labelled T1 scans).
"""

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.data import data_folder
from regsim.errors import InputError
from regsim.images import Grid, Image, read_image, write_image

COLUMNS = ("subject", "contrast", "path", "transform", "set", "licence")
Row = tuple[str, str, Path, str, str, str]
IXI = ("012", "013", "014", "033", "034", "048", "049")
DARK, SECTION = 0.02, 12.5
CLOSED = 2
SESSIONS = ("msl01_ses1", "msl01_ses2", "msl03_ses2", "msl04_ses1")


def ship(root: Path) -> list[Row]:
    """T1, T2 and FLAIR of five patients, T1 of seven volunteers."""
    rows: list[Row] = []
    for subject in ("msx07", "msx19"):
        for contrast in ("t1", "t2", "flair"):
            path = root / "brain_t1t2_mni" / f"sub-{subject}_{contrast}.nii.gz"
            rows.append((subject, contrast, path, "", "brain_t1t2_mni (open_ms_data)", "CC BY 4.0"))
    for session in SESSIONS:
        start = root / "brain_t1t2_native" / f"sub-{session}"
        for contrast in ("flair", "t1", "t2"):
            transform = "" if contrast == "flair" else f"{start}_{contrast}_onto_flair_itk.txt"
            name = session.replace("_", "/")
            path = Path(f"{start}_{contrast}.nii.gz")
            rows.append((name, contrast, path, transform, "brain_t1t2_native (open_ms_data)", "CC BY 4.0"))
    for number in IXI:
        path = root / "brain_t1_ixi_labels" / f"sub-ixi{number}_t1.nii.gz"
        rows.append((f"ixi{number}", "t1", path, "", "IXI", "CC BY-SA 3.0"))
    return rows


def heads(root: Path) -> list[Row]:
    """Label maps of sixteen heads, to be painted."""
    paths = sorted((root / "brain_label_maps").glob("*_labels.nii.gz"))
    return [
        (path.name.split("_")[0], "labels", path, "", "brain_label_maps (SynthSeg)", "Apache-2.0") for path in paths
    ]


def features(root: Path, made: Path) -> list[Row]:
    """One patient with a tissue map, seven labelled T1 scans, sixteen label maps."""
    patient = [row for row in ship(root) if row[0] == "msx07"]
    scans = [row for row in ship(root) if row[0].startswith("ixi")]
    tissues = made / "sub-msx07_labels.nii.gz"
    if not tissues.exists():
        write_tissues(patient[0][2], tissues)
    rows = [*patient, ("msx07", "labels", tissues, "", *patient[0][4:]), *scans, *map(_labels_of, scans)]
    return [*rows, *heads(root)]


def write_tissues(t1: Path, path: Path) -> None:
    """Fluid 1, grey 2, white matter 3 of a stripped T1: N4, then Atropos from three clusters, at 1.5 mm (less noise)."""
    import ants

    whole = ants.image_read(str(t1))
    clipped = ants.iMath(whole, "TruncateIntensity", 0.001, 0.999)
    image = ants.resample_image(clipped, (1.5, 1.5, 1.5), use_voxels=False, interp_type=0)
    mask = image > DARK * float(image.quantile(0.999))
    seen = ants.n4_bias_field_correction(image, mask=mask, shrink_factor=2)
    found = ants.atropos(a=seen, x=mask, i="kmeans[3]", m="[0.1,1x1x1]")["segmentation"]
    carried = ants.resample_image_to_target(found, whole, interp_type="nearestNeighbor")
    ants.image_write(carried.astype("uint8"), str(path))


def em(root: Path, made: Path) -> dict[str, list[Row]]:
    """Electron micrographs: three parts of one stack with their membranes (2; cells 3) to learn from, another stack to judge by.

    Volumes are written, one voxel for a pixel; sections lie 12.5 pixels apart.
    """
    found: dict[str, list[Row]] = {"em": [], "test_em": []}
    for part in range(3):
        numbers = range(7 * part, 7 * part + 7)
        for kind, folder in (("em", "vnc_a"), ("labels", "vnc_a_membrane")):
            path = made / f"vnca{part}_{kind}.nii.gz"
            write_stack(
                [root / "em_sections" / folder / f"{number:02d}.png" for number in numbers], path, kind == "labels"
            )
            found["em"].append((f"vnca{part}", kind, path, "", "em_tissues (ISBI 2012)", "research only"))
    path = made / "vncb_em.nii.gz"
    write_stack([root / "em_sections" / "vnc_b" / f"{number:02d}.png" for number in range(21)], path, False)
    found["test_em"].append(("vncb", "em", path, "", "em_sections/vnc_b", "test only"))
    return found


def write_stack(sections: list[Path], path: Path, membranes: bool) -> None:
    """Pictures as the planes of one volume; where they are masks of membranes, black becomes 2 and white 3."""
    planes = torch.stack([read_image(section).data[0].float() for section in sections])
    values = torch.where(planes > planes.max() / 2, 3, 2).to(torch.int16) if membranes else planes
    grid = Grid(
        tuple(reversed(values.shape)), (1.0, 1.0, SECTION), (0.0, 0.0, 0.0), tuple(map(tuple, torch.eye(3).tolist()))
    )
    write_image(Image(values[None], grid, name=path.name), path)


def evaluators(root: Path, made: Path) -> list[Row]:
    """What the models of imse learn from: T1 of one patient, and of seven volunteers with and without their skulls."""
    rows = [row for row in ship(root) if row[:2] == ("msx07", "t1")]
    for subject, contrast, path, transform, name, licence in (row for row in ship(root) if row[0].startswith("ixi")):
        stripped = made / f"{subject}_brain.nii.gz"
        if not stripped.exists():
            write_stripped(path, path.with_name(path.name.replace("_t1.", "_labels.")), stripped)
        rows.append((f"{subject}/head", contrast, path, transform, name, licence))
        rows.append((f"{subject}/brain", contrast, stripped, transform, name, licence))
    return rows


def translators(root: Path) -> list[Row]:
    """What the baselines of imse learn from: T1 and T2 of four patients, not of the one that judges."""
    return [row for row in ship(root) if row[0] != "msx19" and row[1] in ("t1", "t2") and not row[0].startswith("ixi")]


def write_stripped(t1: Path, labels: Path, path: Path) -> None:
    """What lies within a head's labels, closed by two voxels (4 mm)."""
    whole, known = read_image(t1), read_image(labels, labels=True)
    grown = F.max_pool3d((known.data > 0).float(), 2 * CLOSED + 1, 1, CLOSED)
    inside = 1 - F.max_pool3d(1 - grown, 2 * CLOSED - 1, 1, CLOSED - 1)
    write_image(whole.with_data(whole.data * inside), path)


def test_contrasts(root: Path) -> list[Row]:
    """Subjects that no model of imse has seen, in two to four contrasts: two patients, sixteen older people, three averages."""
    patient = [row for row in ship(root) if row[0] == "msx19"]
    visits = [
        (f"br002/{path.name.split('_')[1]}", contrast, path.with_name(path.name.replace("_t1.", f"_{contrast}.")), "",
         "brain_longitudinal", "test only")
        for path in sorted((root / "brain_longitudinal").glob("*_t1.nii.gz"))
        for contrast in ("t1", "t2")
    ]  # fmt: skip
    averages = [
        ("avg152", contrast, root / "brain_templates" / f"avg152_{contrast}.nii.gz", "", "brain_templates", "test only")
        for contrast in ("t1", "t2", "pd")
    ]
    return [*patient, *visits, *test_multi(root), *averages]


def test_t1(root: Path) -> list[Row]:
    """T1 of 19 subjects that no training sees, 1 mm."""
    oasis = [
        (name, "t1", root / "brain_t1_oasis" / f"sub-{name}_t1.nii.gz", "", "OASIS", "test only")
        for name in ("lapa", "lapb", "vxm1")
    ]
    slabs = sorted((root / "brain_t1_slabs").glob("*_t1.nii.gz"))
    return [*oasis, *((path.name.split("_")[0], "t1", path, "", "brain_t1_slabs", "test only") for path in slabs)]


def test_multi(root: Path) -> list[Row]:
    """T1 and FLAIR of 16 subjects that no training sees, 2 mm."""
    rows: list[Row] = []
    for path in sorted((root / "brain_t1_flair_labels").glob("*_t1.nii.gz")):
        for contrast in ("t1", "flair"):
            other = path.with_name(path.name.replace("_t1.", f"_{contrast}."))
            rows.append((path.name.split("_")[0], contrast, other, "", "brain_t1_flair_labels", "test only"))
    return rows


def labelled(root: Path) -> list[Row]:
    """Seven labelled T1 scans."""
    scans = [row for row in ship(root) if row[0].startswith("ixi")]
    return [*scans, *[_labels_of(scan) for scan in scans]]


def _labels_of(scan: Row) -> Row:
    return (scan[0], "labels", scan[2].with_name(scan[2].name.replace("_t1.", "_labels.")), "", *scan[4:])


SETS = {
    "labelled": labelled,
    "test_contrasts": test_contrasts,
    "translators": translators,
    "ship": ship,
    "heads": heads,
    "test_t1": test_t1,
    "test_multi": test_multi,
}


def write_manifests(folder: Path) -> dict[str, Path]:
    """Write all; their paths.

    Raises:
        InputError: the sets are not to be had here.
    """
    root = data_folder()
    if root is None:
        raise InputError("the real sets are not here: set REGSIM_DATA to the folder that holds them")
    folder.mkdir(parents=True, exist_ok=True)
    learnt = _write(folder / "features.csv", features(root, folder.resolve()))
    alone = _write(folder / "evaluators.csv", evaluators(root, folder.resolve()))
    known = {name: rows(root) for name, rows in SETS.items()} | em(root, folder.resolve())
    return {"features": learnt, "evaluators": alone} | {
        name: _write(folder / f"{name}.csv", rows) for name, rows in known.items()
    }


def _write(path: Path, rows: Iterable[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for written in write_manifests(parser.parse_args().folder).values():
        print(written)
