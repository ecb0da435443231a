"""What a surface or a line of costs says: minima, capture range, the paper's delta, where an optimum lies and how wide it is."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
TOLERANCE = 1e-4
DEPTH = 0.03


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


def minima(values: Array, depth: float = DEPTH) -> int:
    """Local minima, ends too, that lie at least `depth` of the range below the ridges beside them.

    >>> minima(np.array([3.0, 2.0, 1.0, 2.0, 1.5, 3.0])), minima(np.array([3.0, 1.0, 2.0]))
    (2, 1)
    """
    least = depth * float(values.max() - values.min())
    found, low, high, falling = 0, float(values[0]), float(values[0]), True
    for value in (float(each) for each in values[1:]):
        if falling:
            low = min(low, value)
            if value > low + least:
                found, high, falling = found + 1, value, False
        else:
            high = max(high, value)
            if value < high - least:
                low, falling = value, True
    return found + (1 if falling and low < float(values[0]) - least else 0)


def flanks(places: Array, values: Array, height: float = 0.5) -> float:
    """Distance of the flanks around the lowest value, at a share of the height of the lower end; the whole line if it is flat.

    >>> flanks(np.arange(5.0), np.array([2.0, 1.0, 0.0, 1.0, 2.0]))
    2.0
    """
    best = int(values.argmin())
    lowest, end = float(values[best]), min(float(values[0]), float(values[-1]))
    half = lowest + height * (end - lowest)
    ends = []
    for way in (-1, 1):
        at = best
        while 0 <= at + way < len(values) and values[at] < half:
            at += way
        before = at - way
        rise = float(values[at] - values[before]) if 0 <= before < len(values) and at != best else 0.0
        share = (half - float(values[before])) / rise if rise > 0 else 1.0
        ends.append(float(places[before] + share * (places[at] - places[before])) if at != best else float(places[at]))
    return abs(ends[1] - ends[0])
