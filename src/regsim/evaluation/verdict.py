"""The rule of `regsim check`: from numbers to pass, review, fail or cannot tell, with a reason."""

from dataclasses import dataclass

from pydantic import Field

from regsim.evaluation.check_rows import Limits, Verdict
from regsim.settings import Settings


class Findings(Settings):
    """What the rule looks at.

    `expected`, `lower`, `upper`: mean error over the mask and its interval at `coverage`. `voxels`: working voxels in the
    mask. `overlap`: share of what was asked about where both images have data. `unrelated`: share of the mask where they seem
    unrelated; `worst`: the region with most of it. `distance`, `typical`: of the pair from the calibration's pairs, and of 95 %
    of those. `folded`: share of folding voxels, None without a transform. `likeness`: local correlation of the two images where
    a deformable transform is known, else None.
    """

    expected: float = Field(ge=0)
    lower: float = Field(ge=0)
    upper: float = Field(ge=0)
    coverage: float = Field(gt=0, lt=1)
    unit: str = "mm"
    voxels: float = Field(ge=0)
    overlap: float = Field(ge=0, le=1)
    unrelated: float = Field(ge=0, le=1)
    worst: str = ""
    distance: float = Field(ge=0)
    typical: float = Field(ge=0)
    folded: float | None = Field(default=None, ge=0, le=1)
    likeness: float | None = Field(default=None, ge=-1, le=1)


@dataclass(frozen=True)
class Ruling:
    """A verdict and one plain sentence that gives its reason."""

    verdict: Verdict
    reason: str


def judge(found: Findings, limits: Limits) -> Ruling:
    """The verdict.

    "cannot tell": too few voxels, too little overlap, too much that seems unrelated, a pair unlike the calibration's, or an
    interval from below half the pass limit to above twice the fail limit. Else "fail": the whole interval lies above the fail
    limit, or the expected error does and the interval above the pass limit, or the transform folds too much. "pass": the
    whole interval lies within the pass limit, and neither folding, nor what seems unrelated, nor a deformation between
    contrasts speaks against it. "review": all else.

    Example:
        >>> found = Findings(
        ...     expected=1.0, lower=0.6, upper=1.7, coverage=0.9, voxels=9000, overlap=1, unrelated=0, distance=2, typical=3
        ... )
        >>> judge(found, Limits(pass_at=2, fail_at=4, working=2)).verdict
        'pass'
    """
    unknown = _cannot_tell(found, limits)
    if unknown:
        return Ruling("cannot tell", unknown)
    error = _error(found, limits)
    if found.lower > limits.fail_at or (found.expected > limits.fail_at and found.lower > limits.pass_at):
        return Ruling("fail", f"{error}: above the limit of {limits.fail_at:g} {found.unit}.")
    if found.folded is not None and found.folded > limits.too_folded:
        most = _percent(limits.too_folded)
        return Ruling(
            "fail",
            f"The transform folds {_percent(found.folded)} of the mask, where no anatomy can; at most {most} may.",
        )
    doubt = _doubt(found, limits)
    if found.upper <= limits.pass_at:
        within = f"{error}: within the limit of {limits.pass_at:g} {found.unit}"
        return Ruling("review", f"{within}, but {doubt}.") if doubt else Ruling("pass", f"{within}.")
    between = f"neither surely within {limits.pass_at:g} {found.unit} nor surely above {limits.fail_at:g} {found.unit}"
    return Ruling("review", f"{error}: {between}{f'; also, {doubt}' if doubt else ''}.")


def _cannot_tell(found: Findings, limits: Limits) -> str:
    """Why nothing can be told, or nothing."""
    if found.voxels < limits.fewest_voxels:
        return (
            f"The mask holds {found.voxels:.0f} working voxels of {limits.working:g} {found.unit}; "
            f"at least {limits.fewest_voxels:g} are needed."
        )
    if found.overlap < limits.least_overlap:
        return (
            f"The moved image has data for {_percent(found.overlap)} of the mask; "
            f"at least {_percent(limits.least_overlap)} are needed."
        )
    if found.unrelated > limits.most_unrelated:
        most = f", most in {found.worst}" if found.worst else ""
        return (
            f"The images seem unrelated in {_percent(found.unrelated)} of the mask{most}; "
            f"at most {_percent(limits.most_unrelated)} may be."
        )
    if found.distance > limits.drift_factor * found.typical:
        return (
            f"The pair is unlike those of the calibration: distance {found.distance:.3g}, "
            f"95 % of those lie within {found.typical:.3g}."
        )
    if found.lower < limits.pass_at / 2 and found.upper > 2 * limits.fail_at:
        return f"{_error(found, limits)}: too wide to be of use."
    return ""


def _doubt(found: Findings, limits: Limits) -> str:
    """What speaks against a pass whatever the expected error is, or nothing."""
    doubts = []
    if found.unrelated >= limits.some_unrelated:
        most = f", most in {found.worst}" if found.worst else ""
        doubts.append(f"the images seem unrelated in {_percent(found.unrelated)} of the mask{most}")
    if found.folded is not None and found.folded >= limits.most_folded:
        doubts.append(f"the transform folds {_percent(found.folded)} of the mask")
    if found.likeness is not None and found.likeness < limits.least_likeness:
        doubts.append(
            f"a deformation made images of different contrast fit (local correlation {found.likeness:.2f}), which can hide errors"
        )
    return ", and ".join(doubts)


def _error(found: Findings, limits: Limits) -> str:
    interval = limits.range_text((found.lower, found.upper))
    return (
        f"The expected error is {limits.text(found.expected)} {found.unit} "
        f"({100 * found.coverage:g} % interval {interval} {found.unit})"
    )


def _percent(share: float) -> str:
    """One digit where it matters.

    >>> _percent(0.004), _percent(0.346), _percent(0.9996), _percent(1.0)
    ('0.4 %', '35 %', '99.96 %', '100 %')
    """
    percent = 100 * share
    return f"{percent:.1f} %" if 0 < percent < 10 else f"{percent:.4g} %" if 99 < percent < 100 else f"{percent:.0f} %"
