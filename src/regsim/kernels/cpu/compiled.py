"""How a CPU loop is compiled, and how its work is shared out: by slabs, over as many threads as torch may use.

Each compiled function takes the first and last slab as its first arguments and releases Python's lock. Its threads are
Python's, not OpenMP's: they never spin, a forked process makes its own, and `torch.set_num_threads` (`--threads`) rules them.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar, cast

import numba
import torch

Function = TypeVar("Function", bound=Callable[..., Any])

_EXACT_ENOUGH = {"contract", "reassoc", "nsz", "arcp"}
"""What the compiler may reorder; NaN and infinity keep their meaning."""


def compiled(function: Function) -> Function:
    """Compile at the first call, and keep the machine code beside the source or in the user's cache, if either can be written.

    A file's machine code is made anew when that file changes, not when another does: in a checkout, touch the files that call it.
    """
    settings: dict[str, Any] = {"nogil": True, "fastmath": _EXACT_ENOUGH, "error_model": "numpy"}
    try:
        made = numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # nowhere to write
        made = numba.njit(**settings)(function)
    return cast(Function, made)


def in_slabs(function: Callable[..., Any], slabs: int, *arguments: Any) -> list[Any]:
    """Run `function(first, last, *arguments)` over the slabs 0 to `slabs`, one run of neighbours a thread; what each returned.

    The parts are the same at every call with the same number of threads, so sums over them are, too.
    """
    parts = min(torch.get_num_threads(), slabs)
    if parts <= 1:
        return [function(0, slabs, *arguments)]
    ends = [slabs * part // parts for part in range(parts + 1)]
    own, *others = itertools.pairwise(ends)
    running = [_pool(torch.get_num_threads()).submit(function, *ends, *arguments) for ends in others]
    return [function(*own, *arguments), *(each.result() for each in running)]


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    """The calling thread takes one part itself."""
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="regsim")


if hasattr(os, "register_at_fork"):  # a forked process has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
