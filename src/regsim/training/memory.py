"""Two settings that make training on the CPU several times faster: the order of the channels, and glibc's allocator.

channels_last: the values of all channels of one voxel lie side by side, which is how oneDNN's convolutions work inside;
in the usual order it copies every activation there and back.

Allocator: by default glibc hands every block above 128 kB (adapting up to 32 MB) back to the system when it is freed. The
next step asks for the same memory again, and the system fills it with zeros page by page: more time than the
convolutions take. `keep_freed_memory` tells glibc to keep it. `benchmarks/training.py` measures both.
"""

import ctypes
import sys
from functools import cache

import torch
from torch import nn

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
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


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with the channels innermost; `(N, C, H, W)` and `(N, C, D, H, W)`, others come back as they are.

    Convention:
        With one channel both orders are the same in memory, and `Tensor.contiguous` leaves the strides that say "channels
        first"; here they are written so that a convolution sees channels_last.

    >>> channels_last(torch.zeros(2, 1, 3, 4)).stride()
    (12, 1, 4, 1)
    """
    if tensor.ndim not in _FORMATS:
        return tensor
    target = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=_FORMATS[tensor.ndim])
    return tensor if tensor.stride() == target.stride() else target.copy_(tensor)


def weights_channels_last(network: nn.Module) -> nn.Module:
    """Turn the weights of convolutions, in place; the activations follow them. Values stay the same."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.data = channels_last(parameter.data)
    return network
