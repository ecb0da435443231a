"""What a surface of costs says: minima, capture range, the paper's delta, the place of an optimum between samples."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
TOLERANCE = 1e-4


def local_minima(costs: Array, tolerance: float = TOLERANCE) -> list[tuple[int, int]]:
    """Inner cells that lie below all eight neighbours by more than `tolerance` of the surface's range.

    Cells on the border are left out: whether the cost goes on falling outside cannot be told. The tolerance keeps rounding
    of float32 from counting.

    >>> bowl = np.add.outer(np.arange(-2.0, 3) ** 2, np.arange(-2.0, 3) ** 2)
    >>> local_minima(bowl)
    [(2, 2)]
    """
    least = tolerance * float(np.ptp(costs))
    rows, columns = costs.shape
    inner = costs[1:-1, 1:-1]
    around = [
        costs[1 + i : rows - 1 + i, 1 + j : columns - 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)
    ]
    lower = np.all([inner < neighbour - least for neighbour in around], axis=0)
    return [(int(i) + 1, int(j) + 1) for i, j in np.argwhere(lower)]


def spurious_minima(costs: Array, tolerance: float = TOLERANCE) -> int:
    """How many local minima there are besides the one nearest to the middle (the truth)."""
    return max(0, len(local_minima(costs, tolerance)) - 1)


def capture_range(costs: Array, errors: Array) -> float:
    """The largest true error up to which every start of a greedy descent ends at the middle cell or beside it.

    From each cell the descent steps to the lowest of the eight neighbours until none is lower. "Beside" is the eight cells
    around the middle: a step of the wide surface is coarser than the optimum's place is sharp.

    Args:
        costs: `(rows, columns)`, both odd; the truth is in the middle.
        errors: the true error of every cell.

    Returns:
        The largest error of a start that is nearer than every start that failed; 0 where there is none.
    """
    ends = _descent(costs)
    middle = np.array(costs.shape) // 2
    missed = np.abs(ends - middle).max(axis=-1) > 1
    if not missed.any():
        return float(errors.max())
    nearest_failure = float(errors[missed].min())
    reached = errors[(errors < nearest_failure) & ~missed]
    return float(reached.max()) if reached.size else 0.0


def _descent(costs: Array) -> npt.NDArray[np.intp]:
    """Where the greedy descent from each cell ends, `(rows, columns, 2)`."""
    rows, columns = costs.shape
    ends = np.empty((rows, columns, 2), dtype=np.intp)
    for flat in np.argsort(costs, axis=None, kind="stable"):
        i, j = divmod(int(flat), columns)
        top, left = max(i - 1, 0), max(j - 1, 0)
        near = costs[top : i + 2, left : j + 2]
        k, m = np.unravel_index(int(near.argmin()), near.shape)
        lower = (top + int(k), left + int(m))
        # cells are visited from the lowest up, so a lower neighbour is done already
        ends[i, j] = ends[lower] if costs[lower] < costs[i, j] else (i, j)
    return ends


def delta(values: Array, rows_per_unit: int, columns_per_unit: int) -> float:
    """SiamRegQC's sensitivity: the mean over the surface of the variance inside a cell of one unit by one degree.

    Convention:
        As the paper writes it, not as its code has it (the maximum, 30 cells wide). It is not scale free: a metric times k
        has k^2 times the delta, so it ranks nothing across metrics. It is here because the paper reports it.
    """
    window = (min(rows_per_unit + 1, values.shape[0]), min(columns_per_unit + 1, values.shape[1]))
    cells = np.lib.stride_tricks.sliding_window_view(values, window)
    return float(cells.var(axis=(-2, -1)).mean())


def optimum(amounts: Array, costs: Array) -> float:
    """The place of the lowest cost along a line of equal steps: a parabola through the best sample and its neighbours.

    At the ends of the line the best sample itself; the middle of the line where the costs are all alike.

    >>> x = np.linspace(-1, 1, 9)
    >>> round(optimum(x, (x - 0.1) ** 2), 6)
    0.1
    """
    if float(np.ptp(costs)) <= 1e-12 * float(np.abs(costs).max()):
        return float(amounts[len(amounts) // 2])
    best = int(costs.argmin())
    if best in (0, len(costs) - 1):
        return float(amounts[best])
    before, at, after = costs[best - 1 : best + 2]
    curve = before - 2 * at + after
    share = 0.5 * (before - after) / curve if curve > 0 else 0.0
    return float(amounts[best] + share * (amounts[1] - amounts[0]))
