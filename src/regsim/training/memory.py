"""channels_last: the order of the channels that makes training on the CPU several times faster.

The values of all channels of one voxel lie side by side, which is how oneDNN's convolutions work inside;
in the usual order it copies every activation there and back. `benchmarks/training.py` measures it, and what the allocator
costs (`kernels/memory.py`).
"""

import torch
from torch import nn

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


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
