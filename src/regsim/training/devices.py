"""Where training runs: one CPU, one GPU, or many through `accelerate launch`; and the generators there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState

from regsim.errors import SettingsError
from regsim.training.settings import TrainerSettings


def make_accelerator(settings: TrainerSettings) -> Accelerator:
    """The device, the precision and the processes of one run.

    accelerate remembers the first choice for the whole process; it is forgotten here, so that runs in one process can differ.
    A stage may leave parts of a network unused (a decoder), which many processes must be told. A processor that has no bf16
    emulates it, some ten times slower than without: there "bf16" is "no".

    Raises:
        SettingsError: no GPU where one is asked for; fp16 without a GPU; bf16 on a GPU that has none.
    """
    cuda = settings.device != "cpu" and torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise SettingsError("device cuda: no GPU that torch can use was found; use device cpu")
    if settings.amp == "fp16" and not cuda:
        raise SettingsError("amp fp16 needs a GPU; use amp no (or bf16)")
    if settings.amp == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        raise SettingsError("amp bf16: this GPU has none; use amp fp16 or no")
    AcceleratorState._reset_state()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        PartialState._reset_state()
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    amp = "no" if settings.amp == "bf16" and not cuda and not processor_has_bf16() else settings.amp
    return Accelerator(mixed_precision=amp, cpu=not cuda, kwargs_handlers=[unused])


def processor_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX-512, AMX, or ARM's)."""
    known = torch.cpu.get_capabilities()
    return any(bool(known.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


@contextmanager
def fork_generators(device: torch.device) -> Iterator[None]:
    """Let a block seed torch's own generators (dropout knows no others) and put them back after it."""
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        yield


def seed_network(seed: int, device: torch.device) -> None:
    """Seed the generators that layers of a network draw from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
