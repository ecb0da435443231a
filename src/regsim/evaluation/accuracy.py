"""How good a registration is where something better than similarity is known: true error, landmarks, overlap, folding."""

import math

import torch

from regsim.errors import GridError
from regsim.evaluation.results import JacobianRow, ParameterRow, TruthRow
from regsim.images.image import Image
from regsim.prepare import foreground
from regsim.transforms.base import Transform
from regsim.transforms.linear import Rigid, nearest_rotation

SAMPLES = 50_000


def true_errors(found: Transform, known: Transform, points: torch.Tensor) -> torch.Tensor:
    """Distances `(points,)` between where two transforms send each point; physical units, 0 = perfect."""
    with torch.no_grad():
        errors: torch.Tensor = torch.linalg.vector_norm(found(points) - known(points), dim=-1)
    return errors


def foreground_points(image: Image) -> torch.Tensor:
    """At most 50 000 evenly taken points of the image's foreground, `(points, ndim)`."""
    points = image.grid.points()[foreground(image)]
    return points[:: max(1, math.ceil(points.shape[0] / SAMPLES))]


def truth_row(found: Transform, known: Transform, before: Transform, fixed: Image) -> TruthRow:
    """Summary over the fixed foreground; `before` is what the user started from (usually the identity)."""
    points = foreground_points(fixed)
    after = true_errors(found, known, points)
    rigid = true_errors(best_rigid(found, points), best_rigid(known, points), points)
    return TruthRow(
        before_mean=float(true_errors(before, known, points).mean()),
        after_mean=float(after.mean()),
        after_percentile_95=float(torch.quantile(after, 0.95)),
        after_maximum=float(after.max()),
        rigid_error=float(rigid.mean()),
    )


def best_rigid(transform: Transform, points: torch.Tensor) -> Rigid:
    """The rigid transform that comes nearest to a transform over some points (least squares; Kabsch).

    References:
        Kabsch 1976, doi:10.1107/S0567739476001873.
    """
    with torch.no_grad():
        here = points.double()
        there = transform(points).double()
        centre = here.mean(dim=0)
        rotation = nearest_rotation((there - there.mean(dim=0)).T @ (here - centre))
        fitted = Rigid(here.shape[1], centre.numpy())
        fitted.set_matrix(rotation)
        fitted.translation.copy_(there.mean(dim=0) - centre)
    return fitted


def rigid_parameters(found: Transform, known: Transform, fixed: Image) -> list[ParameterRow]:
    """Rotation (degrees) and translation of the foreground's centre, of the best rigid fits to known and found."""
    points = foreground_points(fixed)
    fits = [best_rigid(transform, points) for transform in (known, found)]
    turns = [fit.rotation.detach() * 180 / math.pi for fit in fits]
    shifts = [fit.translation.detach() for fit in fits]
    names = ["rotation"] if fixed.ndim == 2 else [f"rotation about {axis}" for axis in "xyz"]
    rows = [(name, turns[0][i], turns[1][i], "degrees") for i, name in enumerate(names)]
    rows += [
        (f"shift in {axis}", shifts[0][i], shifts[1][i], fixed.grid.unit) for i, axis in enumerate("xyz"[: fixed.ndim])
    ]
    return [ParameterRow(name=name, known=float(k), recovered=float(f), unit=unit) for name, k, f, unit in rows]


def jacobian_row(transform: Transform, fixed: Image) -> JacobianRow:
    """Quantiles of the Jacobian determinant over the fixed foreground, and the fraction that is folded (<= 0)."""
    with torch.no_grad():
        determinant = transform.jacobian_determinant(fixed.grid)
    values = determinant[foreground(fixed)].float()
    step = max(1, values.numel() // 1_000_000)
    low, middle, high = torch.quantile(values[::step], torch.tensor([0.01, 0.5, 0.99])).tolist()
    return JacobianRow(
        minimum=float(values.min()),
        percentile_1=low,
        median=middle,
        percentile_99=high,
        maximum=float(values.max()),
        folded_fraction=float((values <= 0).float().mean()),
    )


def dice(first: Image, second: Image, smallest: int = 1) -> dict[int, float]:
    """Overlap of each label of `first` (with at least `smallest` voxels): `2 |A and B| / (|A| + |B|)`, in [0, 1], 1 = equal.

    Label 0 is background and left out.

    Raises:
        GridError: the label maps lie on different grids.

    References:
        Dice 1945, doi:10.2307/1932409.

    Example:
        >>> from regsim.images import Grid
        >>> labels = Image(torch.tensor([[[0, 1], [1, 2]]]), Grid.of((2, 2)))
        >>> dice(labels, labels)
        {1: 1.0, 2: 1.0}
    """
    if not first.grid.same_as(second.grid):
        raise GridError(f"label maps '{first.name}' and '{second.name}' lie on different grids")
    found = {}
    known, counts = torch.unique(first.data, return_counts=True)
    for label, count in zip(known.tolist(), counts.tolist(), strict=True):
        if label != 0 and count >= smallest:
            own, other = first.data == label, second.data == label
            found[label] = 2 * int((own & other).sum()) / (count + int(other.sum()))
    return found


def landmark_errors(transform: Transform, fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
    """Target registration error of each landmark pair, `(points,)`: `|T(fixed) - moving|`, physical units.

    Raises:
        GridError: unequal numbers of points.
    """
    if fixed.shape != moving.shape:
        raise GridError(f"{fixed.shape[0]} fixed and {moving.shape[0]} moving landmarks: give as many of each")
    with torch.no_grad():
        errors: torch.Tensor = torch.linalg.vector_norm(transform(fixed) - moving, dim=-1)
    return errors
