"""What one evaluation of a metric costs: seconds and memory."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from regsim.evaluation.measuring import Shown
from regsim.metrics import AbstractMetric, MeanSquaredError

REPEATS = 3
RESET_PEAK = "5"
MEGABYTE = 1024**2


def expenses(metrics: Sequence[AbstractMetric], shown: Shown) -> list[tuple[float, float, float]]:
    """Seconds, the same over those of mse on the same images, and memory in MB, of each metric."""
    base = seconds(MeanSquaredError().to(shown.fixed.device), shown)
    taken = [seconds(metric, shown) for metric in metrics]
    return [(own, own / base, memory_mb(metric, shown)) for metric, own in zip(metrics, taken, strict=True)]


@torch.no_grad()
def seconds(metric: AbstractMetric, shown: Shown) -> float:
    """Seconds of the fastest of three evaluations, both images new to the metric; a first call is not counted."""
    metric(shown.fixed, shown.moving, shown.mask)
    taken = []
    for _ in range(REPEATS):
        _wait(shown)
        began = time.perf_counter()
        metric(shown.fixed, shown.moving, shown.mask)
        _wait(shown)
        taken.append(time.perf_counter() - began)
    return min(taken)


@torch.no_grad()
def memory_mb(metric: AbstractMetric, shown: Shown) -> float:
    """Peak memory of one evaluation on top of what was held before, in MB.

    Convention:
        On a GPU torch's own count. On Linux the process's peak resident memory, reset before; memory that the allocator
        holds from earlier work is used first, so small amounts read as 0. NaN on other systems.
    """
    if shown.fixed.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        metric(shown.fixed, shown.moving, shown.mask)
        return (torch.cuda.max_memory_allocated() - held) / MEGABYTE
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        before = _status("VmRSS")
        metric(shown.fixed, shown.moving, shown.mask)
        return max(0.0, _status("VmHWM") - before)
    except OSError:
        return math.nan


def _wait(shown: Shown) -> None:
    if shown.fixed.is_cuda:
        torch.cuda.synchronize()


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
