"""The tables of docs/imse.md from the rows beside it: `python -m benchmarks.imse_page`.

The rows, docs/imse/pictures.csv and volumes.csv, are what `python -m benchmarks.imse SET ... -o DIR` writes to DIR/imse.csv.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.rows import Row, read_rows
from regsim.errors import InputError

DOCS = Path(__file__).parents[1] / "docs"
PAGE, ROWS = DOCS / "imse.md", DOCS / "imse"
SUCCESS = 2.0
NONE = "–"


class Measured:
    """All rows; `rows(set, metric, first words of the case)`."""

    def __init__(self, folder: Path = ROWS):
        self.all = [row for name in ("pictures", "volumes") for row in read_rows(folder / f"{name}.csv")]

    def rows(self, name: str, metric: str, case: str) -> list[Row]:
        """Those of one set and metric whose case is these words, or begins with them."""
        own = [row for row in self.all if row["set"] == name and row["metric"] == metric]
        return [row for row in own if row["case"] == case or str(row["case"]).startswith(f"{case} ")]

    def values(self, name: str, metric: str, case: str, column: str) -> list[float]:
        """One column of them, where it is filled."""
        return [float(row[column]) for row in self.rows(name, metric, case) if row.get(column, "") != ""]


def short(value: float, digits: int = 2) -> str:
    """A number without a zero before its point.

    >>> short(0.451), short(-0.5), short(12.04, 1)
    ('.45', '-.50', '12.0')
    """
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines))


def relative(found: Measured) -> str:
    """Relative L1 and rank correlation."""
    cases = ("t2", "flair", "pd", "average-t2", "average-pd")
    lines = []
    for metric, dims in (("imse-2d", "2-D"), ("imse-2d-point", "2-D"), ("imse-3d", "3-D")):
        cells = []
        for case in cases:
            row = next(iter(found.rows("relative", metric, f"{dims} {case}")), None)
            cells.append(NONE if row is None else f"{short(float(row['relative']))}, {short(float(row['spearman']))}")
        mirrored = ", mirrored=point" if metric.endswith("point") else ""
        lines.append([f"`imse-brain-{dims[0]}d`{mirrored}", *cells])
    own = [found.values("relative", "imse-2d", f"2-D itself-{case}", "relative") for case in cases]
    lines.append(
        ["`imse-brain-2d`, T1 against T1 of these people", *(short(each[0]) if each else NONE for each in own)]
    )
    return table(("model", "T2 (3 scans)", "FLAIR (17)", "PD (simulated)", "average T2", "average PD"), lines)


def misalignment(found: Measured) -> str:
    """Relative L1 of pairs so far apart."""
    lines = []
    for name, column in (("below 3 voxels", "below_3"), ("3 to 6", "from_3_to_6"), ("12 to 15", "from_12")):
        values = [found.values("relative", "imse-2d", f"2-D {case}", column) for case in ("t2", "flair", "pd")]
        lines.append([name, *(short(own[0]) if own else NONE for own in values)])
    return table(("misalignment, pictures", "T2", "FLAIR", "PD (simulated)"), lines)


def seeds(found: Measured) -> str:
    """Relative L1 of three seeds: mean and range."""
    lines = []
    for case, name in (("t2", "T2"), ("flair", "FLAIR"), ("pd", "PD (simulated)")):
        values = [v for n in range(3) for v in found.values("relative", f"seed{n}", f"2-D {case}", "relative")]
        lines.append([name, short(statistics.mean(values)), f"{short(min(values))} to {short(max(values))}"])
    return table(("contrast", "mean of three", "range"), lines)


def response(found: Measured) -> str:
    """Minima and offset."""
    lines = []
    judged = (("imse, pictures", "imse-2d", "2-D"), ("imse:mirrored=point", "imse-2d-point", "2-D"), ("mind", "mind", "2-D"),
              ("nmi", "nmi", "2-D"), ("imse, volumes", "imse-3d", "3-D"))  # fmt: skip
    for name, metric, dims in judged:
        for turns in (False, True):
            cells = []
            for case in ("t2", "flair", "pd"):
                own = [
                    row
                    for row in found.rows("response", metric, f"{dims} {case}")
                    if str(row["case"]).endswith("turn") == turns
                ]
                means = [
                    statistics.mean(float(row[column]) for row in own) if own else 0.0
                    for column in ("minima", "offset")
                ]
                cells.append(f"{means[0]:.1f}; {short(means[1])}" if own else NONE)
            lines.append([f"{name}, {'turn' if turns else 'shift'}", *cells])
    return table(("minima; offset", "T2", "FLAIR", "PD (simulated)"), lines)


def rigid(found: Measured) -> str:
    """Successes and median error."""
    cases = {"easy": "easy", "half": "half of the field of view", "slab": "a slab", "lesions": "lesions",
             "bias": "strong bias field", "faint": "that and noise of .25", "ct": "phantom, T2 onto CT"}  # fmt: skip
    cases = {case: name for case, name in cases.items() if found.rows("rigid", "mi", case)}
    lines = []
    for metric in ("imse", "imse-3d", "imse+mi", "imse+mind", "mi", "mind"):
        cells = []
        for case in cases:
            errors = found.values("rigid", metric, case, "after")
            done = sum(error < SUCCESS for error in errors)
            cells.append(f"{done} of {len(errors)}; {short(statistics.median(errors))}" if errors else NONE)
        if any(cell != NONE for cell in cells):
            lines.append([metric.removesuffix("-3d"), *cells])
    return table(("driven by", *cases.values()), lines)


def deformable(found: Measured) -> str:
    """Mean error."""
    cases = [f"{condition} {other}" for condition in ("easy", "bias", "noise") for other in ("t2", "flair")]
    metrics = dict.fromkeys(str(row["metric"]) for row in found.all if row["set"] == "deformable")
    lines = []
    for metric in metrics:
        each = [found.values("deformable", metric, case, "after") for case in cases]
        lines.append([metric.removesuffix("-3d"), *(short(statistics.mean(own)) if own else NONE for own in each)])
    heads = ("T2", "FLAIR", "T2, bias", "FLAIR, bias", "T2, noise", "FLAIR, noise")
    return table(("driven by", *heads), lines)


def score(found: Measured) -> str:
    """Rank correlations with intervals."""
    judged = (("imse", "imse-2d", "2-D"), ("mind", "mind", "2-D"), ("nmi", "nmi", "2-D"),
              ("MAE after CycleGAN", "cyclegan", "2-D"), ("MAE after RegGAN", "reggan", "2-D"),
              ("imse, volumes", "imse-3d", "3-D"))  # fmt: skip
    lines = []
    for name, metric, dims in judged:
        cells = []
        for case in ("t2", "flair", "pd"):
            row = next(iter(found.rows("score", metric, f"{dims} {case}")), None)
            if row is None:
                cells.append(NONE)
                continue
            value, low, high, dice = (
                short(float(row[column])) for column in ("spearman", "low", "high", "spearman_dice")
            )
            cells.append(f"{value} ({low} to {high}); {dice}")
        lines.append([name, *cells])
    return table(("", "T2", "FLAIR", "PD (simulated)"), lines)


def translation(found: Measured) -> str:
    """NMAE, PSNR, SSIM."""
    lines = []
    judged = (
        ("imse:mirrored=every", "imse-2d-every"),
        ("imse", "imse-2d"),
        ("CycleGAN", "cyclegan"),
        ("RegGAN", "reggan"),
        ("histogram matching", "histogram"),
        ("the reference itself", "reference"),
    )
    for name, metric in judged:
        cells = []
        for case in ("aligned", "misaligned"):
            nmae, psnr, ssim = (
                statistics.mean(found.values("translation", metric, f"2-D {case}", column))
                for column in ("nmae", "psnr", "ssim")
            )
            trivial = metric == "reference" and case == "aligned"
            cells.append(NONE if trivial else f"{short(nmae, 3)}, {psnr:.1f} dB, {short(ssim)}")
        lines.append([name, *cells])
    return table(("NMAE, PSNR, SSIM", "aligned reference", "bent reference"), lines)


TABLES: dict[str, Callable[[Measured], str]] = {
    each.__name__: each for each in (relative, misalignment, seeds, response, rigid, deformable, score, translation)
}


def written(page: str, found: Measured) -> str:
    """The page with its tables."""
    return filled(page, {name: make(found) for name, make in TABLES.items()})


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its `<!-- begin: NAME -->` and `<!-- end: NAME -->`.

    Raises:
        InputError: no such markers.
    """
    for name, text in tables.items():
        before, begin, rest = page.partition(f"<!-- begin: {name} -->\n")
        _, end, after = rest.partition(f"<!-- end: {name} -->")
        if not (begin and end):
            raise InputError(f"no markers for the table '{name}'")
        page = f"{before}{begin}{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), Measured()), encoding="utf-8")
