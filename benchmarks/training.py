"""Speed of training: `python -m benchmarks.training [--threads 2] [--rounds 3] [--steps 10]`.

The plainest torch loop beside `regsim.training.train`, the same networks and batches: 16 pairs of 128 x 128, cross-entropy
on |fa - fb|, Adam. Every figure comes from a process of its own, since memory settings last; the rows of one round run one
after another, so that a busy machine slows all of them. Seconds are medians over the steps of all rounds, the first
three steps of each process left out; CPU seconds (user + system) bear a busy machine better.

- plain: torch's defaults; GroupNorm(C, C) where the network normalises.
- channels_last, memory: the trainer with one of its two settings.
- regsim: the trainer as it is, with `ChannelNorm`.
- bf16: the same in mixed precision (`amp = "bf16"`), which is not the same arithmetic.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from regsim.training.log import CurveRow

WIDTHS = {"paper": (128, 64, 32, 16), "slim": (16, 32, 32, 32)}
LOOPS = ("plain", "channels_last", "memory", "regsim", "bf16")
PAIRS, SIDE, WARM_UP = 16, 128, 3
Norm = Callable[[int], nn.Module]


class Siamese(nn.Module):
    """Four blocks of convolution (normalisation) ReLU and pooling on each image, then a linear layer on |fa - fb|."""

    def __init__(self, widths: tuple[int, ...], norm: Norm | None):
        super().__init__()
        layers: list[nn.Module] = []
        for width, before in zip(widths, (1, *widths), strict=False):
            own = [norm(width)] if norm is not None else []
            layers += [nn.Conv2d(before, width, 3, padding=1), *own, nn.ReLU(), nn.MaxPool2d(2)]
        self.encoder, self.head = nn.Sequential(*layers), nn.Linear(widths[-1], 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.head((self.encoder(a) - self.encoder(b)).abs().mean((2, 3)))


def draw(pairs: int, generator: torch.Generator) -> torch.Tensor:
    """`(pairs, 3, side, side)`: two images, and the label in every pixel of a third."""
    images = torch.rand(pairs, 3, SIDE, SIDE, generator=generator)
    images[:, 2] = torch.randint(0, 2, (pairs, 1, 1), generator=generator)
    return images


def objective(network: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return F.cross_entropy(network(batch[:, :1], batch[:, 1:2]), batch[:, 2, 0, 0].long()), {}


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(width, width)


def plain(name: str, steps: int, mark: Callable[[], None]) -> None:
    """What one writes first."""
    network = Siamese(WIDTHS[name], group_norm if name == "slim" else None)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss, _ = objective(network, draw(PAIRS, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        mark()


def ours(name: str, steps: int, mark: Callable[[], None], loop: str) -> None:
    """The trainer, all of it: draws, rows, states."""
    from regsim.kernels.channel_norm import ChannelNorm
    from regsim.training.trainer import Stage, StageSettings, TrainerSettings, train

    norm: Norm = ChannelNorm if loop in ("regsim", "bf16") else group_norm
    network = Siamese(WIDTHS[name], norm if name == "slim" else None)
    stage = Stage(
        objective, draw, None, StageSettings(objective="classify", steps=steps, batch=PAIRS, learning_rate=1e-3)
    )
    settings = TrainerSettings(
        channels_last=loop != "memory",
        fast_memory=loop != "channels_last",
        amp="bf16" if loop == "bf16" else "no",
        device="cpu",
    )

    def on_step(row: "CurveRow") -> None:
        mark()

    with tempfile.TemporaryDirectory() as folder:
        train(network, [stage], settings, Path(folder), on_step)


def one_process(loop: str, name: str, steps: int, threads: int) -> dict[str, Any]:
    """Seconds, CPU seconds and peak memory of one loop; runs in a process of its own."""
    import resource

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    walls, loads = [time.perf_counter()], [time.process_time()]

    def mark() -> None:
        walls.append(time.perf_counter())
        loads.append(time.process_time())

    plain(name, steps + WARM_UP, mark) if loop == "plain" else ours(name, steps + WARM_UP, mark, loop)
    seconds, cpu = ([b - a for a, b in pairwise(times)][WARM_UP:] for times in (walls, loads))
    return {"seconds": seconds, "cpu": cpu, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure(name: str, steps: int, threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """All loops, in turn, `rounds` times over."""
    found: dict[str, dict[str, Any]] = {loop: {"seconds": [], "cpu": [], "memory": 0.0} for loop in LOOPS}
    for _ in range(rounds):
        for loop in LOOPS:
            line = [sys.executable, "-m", "benchmarks.training", "--only", loop, name]
            line += ["--steps", str(steps), "--threads", str(threads)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}
            made = json.loads(subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout)
            found[loop]["seconds"] += made["seconds"]
            found[loop]["cpu"] += made["cpu"]
            found[loop]["memory"] = max(found[loop]["memory"], made["memory"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", nargs=2, metavar=("LOOP", "NETWORK"), help="one process; prints JSON")
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(one_process(*chosen.only, chosen.steps, chosen.threads)))
        return
    print("| network | loop | s / step | CPU s / step | ratio | CPU ratio | peak MB |\n|---|---|---|---|---|---|---|")
    for name in WIDTHS:
        found = measure(name, chosen.steps, chosen.threads, chosen.rounds)
        wall, cpu = ({loop: statistics.median(found[loop][kind]) for loop in LOOPS} for kind in ("seconds", "cpu"))
        for loop in LOOPS:
            ratios = f"{wall['plain'] / wall[loop]:.2f} | {cpu['plain'] / cpu[loop]:.2f}"
            print(f"| {name} | {loop} | {wall[loop]:.3f} | {cpu[loop]:.3f} | {ratios} | {found[loop]['memory']:.0f} |")


if __name__ == "__main__":
    main()
