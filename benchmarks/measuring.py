"""How time and memory are measured: calls in turn, every one in a fresh process where memory counts."""

import contextlib
import ctypes
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import SimpleITK as sitk
import torch

Result = TypeVar("Result")
PRELOADED = ["torch", "SimpleITK", "scipy.ndimage", "regsim.registration", "regsim.metrics", "regsim.transforms"]
SLOW_CALL = 2.0


@dataclass
class Memory:
    """How far the resident memory rose above what it was when the block began, in MiB; NaN where the system does not say."""

    mebibytes: float = field(default=float("nan"))


@contextlib.contextmanager
def peak_memory() -> Iterator[Memory]:
    """Measure a block. The high-water mark of the process is reset first (Linux)."""
    found = Memory()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before: float | None = _status("VmRSS")
    except OSError:
        before = None
    yield found
    if before is not None:
        found.mebibytes = (_status("VmHWM") - before) / 1024


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return float(line.split()[1])
    raise OSError(f"no {name}")


def use_threads(threads: int) -> None:
    """The number of threads of torch, SimpleITK and of what loads ITK later (ANTs, elastix)."""
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)


def in_fresh_process(
    function: Callable[..., Result], *arguments: Any, threads: int = 2, limit: float = 3600.0
) -> Result:
    """Call a function (found by its name) in a new process with this many threads.

    Processes are forked from a server that has done nothing but import, so they start at once and share no memory that
    a measurement has used.

    Raises:
        RuntimeError: the function failed, its process died, or it took longer than `limit` seconds; the message says which.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # waiting threads must not take the cores from those that work
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, threads, function, arguments))
    process.start()
    there.close()
    try:
        if not here.poll(limit):
            process.kill()
            raise RuntimeError(f"given up after {limit:.0f} s")
        good, found = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process ended with code {process.exitcode}") from None
    process.join()
    if not good:
        raise RuntimeError(found)
    return found  # type: ignore[no-any-return]


def _answer(there: Connection, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    use_threads(threads)
    try:
        there.send((True, function(*arguments)))
    except Exception as problem:
        text = " ".join(f"{type(problem).__name__}: {problem}".split())
        there.send((False, re.sub(r"/\S+/", "", text)[:200]))


@dataclass(frozen=True)
class Times:
    """Seconds of several calls of one function."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def in_turn(calls: dict[str, Callable[[], object]], rounds: int, budget: float) -> dict[str, Times]:
    """Time several calls in turn (a, b, a, b, ...), so that a busy machine slows all of them.

    One call of each is left out as warm-up, unless it took two seconds and more. Afterwards a call is repeated until `rounds`
    are done or its seconds exceed `budget`.
    """
    seconds: dict[str, list[float]] = {}
    for name, call in calls.items():
        first = _timed(call)
        seconds[name] = [first] if first > SLOW_CALL else []
    for _ in range(rounds):
        for name, call in calls.items():
            if not seconds[name] or sum(seconds[name]) < budget:
                seconds[name].append(_timed(call))
    return {name: Times(tuple(own)) for name, own in seconds.items()}


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def bandwidth(voxels: int = 64_000_000, rounds: int = 5) -> float:
    """Voxels (float32) that torch's threads copy in a second, far beyond the caches: the memory-bandwidth limit."""
    source, target = torch.rand(voxels), torch.empty(voxels)
    return voxels / min(_timed(lambda: target.copy_(source)) for _ in range(rounds))
