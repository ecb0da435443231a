"""One stage at work: network, objective, optimiser and schedule, and one step of them."""

import math
from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from regsim.errors import InputError
from regsim.training.muon import ConvolutionMuon
from regsim.training.settings import StageSettings
from regsim.training.state import Tensors, TrainingState


class Batch(Protocol):
    """What one step learns from. A tensor is one."""

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        ...


class Objective(Protocol):
    """`objective(network, batch) -> (loss, figures)`: a scalar to make small, and scalars to log. May be a module."""

    def __call__(self, network: nn.Module, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and figures of one batch."""
        ...


Draw = Callable[[int, torch.Generator], Batch]


class _Forward(nn.Module):
    """Network and objective as one module, which is what accelerate can spread over processes and precisions."""

    def __init__(self, network: nn.Module, objective: Objective):
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, batch: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.objective(self.network, batch)


class Lesson:
    """The optimiser and the schedule of one stage, on the accelerator's device."""

    def __init__(self, network: nn.Module, objective: Objective, settings: StageSettings, accelerator: Accelerator):
        self.accelerator, self.settings = accelerator, settings
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.plain = make_optimiser(self.parameters, settings, accelerator.device)
        self.forward = accelerator.prepare_model(_Forward(network, objective))
        self.optimiser = accelerator.prepare_optimizer(self.plain)
        self.schedule = make_schedule(self.plain, settings)

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.plain.param_groups[0]["lr"])

    def step(self, batch: Batch) -> dict[str, float]:
        """One update; the figures of before it, `loss` among them. Without an update where a number is not finite."""
        loss, figures = self.forward(batch.to(self.accelerator.device))
        numbers = self._numbers({"loss": loss, **figures})
        if not math.isfinite(numbers["loss"]):
            return numbers
        self.optimiser.zero_grad()
        self.accelerator.backward(loss)
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimiser.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        return numbers

    def _numbers(self, figures: dict[str, torch.Tensor]) -> dict[str, float]:
        """All figures in one transfer, averaged over the processes."""
        together = torch.stack([figure.detach().double().reshape(()) for figure in figures.values()])
        if self.accelerator.num_processes > 1:
            together = self.accelerator.reduce(together, "mean")
        return dict(zip(figures, together.tolist(), strict=True))

    def facts(self) -> dict[str, Any]:
        """What the schedule and the optimiser know besides tensors, as JSON values."""
        groups = [{k: v for k, v in group.items() if k != "params"} for group in self.plain.param_groups]
        scaler = self.accelerator.scaler
        schedule = {k: v for k, v in self.schedule.state_dict().items() if not callable(v)}
        return {"groups": groups, "schedule": schedule, "scaler": scaler.state_dict() if scaler else None}

    def tensors(self) -> Tensors:
        """The optimiser's tensors, named `number of the parameter/name`."""
        state = self.plain.state_dict()["state"]
        return {f"{number}/{name}": tensor for number, known in state.items() for name, tensor in known.items()}

    def restore(self, state: TrainingState) -> None:
        """Go back to what `facts` and `tensors` told.

        The moments get the memory order of their parameters, so that the next step computes the very same numbers.
        """
        facts = state.facts["lesson"]
        known: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in state.tensors.get("optimiser", {}).items():
            number, _, name = key.partition("/")
            known.setdefault(int(number), {})[name] = tensor
        own = self.plain.state_dict()
        groups = [
            {**mine, **_tuples(stored)} for mine, stored in zip(own["param_groups"], facts["groups"], strict=True)
        ]
        self.plain.load_state_dict({"state": known, "param_groups": groups})
        for parameter, values in self.plain.state.items():
            for name, tensor in values.items():
                if tensor.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(tensor)
        self.schedule.load_state_dict(facts["schedule"])
        if self.accelerator.scaler is not None and facts["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])

    def close(self) -> None:
        """Let accelerate forget this stage."""
        self.accelerator.free_memory()


def make_optimiser(parameters: list[nn.Parameter], settings: StageSettings, device: torch.device) -> Optimizer:
    """Adam or AdamW in one fused pass over all weights, or Muon."""
    if not parameters:
        raise InputError("the network has no weights to train")
    if settings.optimiser == "muon":
        return ConvolutionMuon(parameters, settings.learning_rate, settings.weight_decay)
    kind = Adam if settings.optimiser == "adam" else AdamW
    return kind(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def make_schedule(optimiser: Optimizer, settings: StageSettings) -> LRScheduler:
    """How the learning rate goes over the stage's steps."""
    if settings.schedule == "onecycle":
        moments = settings.optimiser != "muon"  # its two parts have momenta of their own
        return OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps, cycle_momentum=moments)
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimiser, T_max=settings.steps)
    return ConstantLR(optimiser, factor=1.0, total_iters=0)


def _tuples(group: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in group.items()}
