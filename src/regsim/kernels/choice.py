"""Which of two loops: the compiled one for float32 on the CPU, or torch's own for all else."""

import torch


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether the compiled loops take it."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32
