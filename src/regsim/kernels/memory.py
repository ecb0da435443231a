"""glibc's allocator, told to keep what is freed: large volumes come and go at every step.

By default glibc hands every block above 128 kB (adapting up to 32 MB) back to the system when it is freed. The next step asks
for the same memory again, and the system fills it with zeros page by page: in training that takes more time than the
convolutions, in registration at 1 mm a quarter of the whole.
"""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_LARGEST = 2**31 - 1  # mallopt takes an int


@cache
def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, from now on and for good; whether that was possible.

    Nothing happens elsewhere than with glibc (macOS, Windows, musl). The price: freed blocks that are too small for the
    next request stay, so the peak is up to a third higher, and up to 1.6 times where the batches change their size.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (only glibc has it)
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _LARGEST), mallopt(_TOP_PAD, 64 * 2**20)])
