"""Muon for convolutions: torch's own on matrices, AdamW on the rest, and a state that is kept."""

import copy

import torch
from torch import nn
from torch.optim import AdamW, Muon

from regsim.training.muon import ConvolutionMuon


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3), nn.Flatten(), nn.Linear(2 * 16, 1))


def loss(net: nn.Module, seed: int) -> torch.Tensor:
    images = torch.rand((8, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    value: torch.Tensor = (net(images)[:, 0] - images.mean(dim=(1, 2, 3))).square().mean()
    return value


def step(net: nn.Module, optimiser: ConvolutionMuon, seed: int) -> None:
    optimiser.zero_grad()
    loss(net, seed).backward()
    optimiser.step()


def test_kernels_as_matrices_by_torchs_muon_and_biases_by_adamw() -> None:
    net = network()
    one = copy.deepcopy(net)
    optimiser = ConvolutionMuon(list(net.parameters()), 1e-2, 0.1)
    kernel, bias = one[2].weight, one[2].bias
    matrix = nn.Parameter(kernel.detach().reshape(2, -1).clone())
    muon = Muon([matrix], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = AdamW([bias], lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        one.zero_grad()
        loss(one, seed).backward()
        assert kernel.grad is not None
        matrix.grad = kernel.grad.reshape(2, -1)
        step(net, optimiser, seed)
        muon.step()
        adam.step()
        with torch.no_grad():
            torch.testing.assert_close(net[2].weight, matrix.reshape(kernel.shape))
            torch.testing.assert_close(net[2].bias, bias)
        one.load_state_dict(net.state_dict())


def test_a_kernel_without_a_gradient_stays_and_the_memory_order_is_kept() -> None:
    net = network().to(memory_format=torch.channels_last)
    optimiser = ConvolutionMuon(list(net.parameters()), 1e-2, 0.0)
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    step(net, optimiser, 0)
    assert torch.equal(net[0].weight, before)
    assert net[2].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_stored_state_goes_on_alike() -> None:
    net = network()
    optimiser = ConvolutionMuon(list(net.parameters()), 1e-2, 0.0)
    step(net, optimiser, 0)
    other = copy.deepcopy(net)
    second = ConvolutionMuon(list(other.parameters()), 3e-1, 0.0)
    second.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for seed in (1, 2):
        step(net, optimiser, seed)
        step(other, second, seed)
    for mine, its in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_it_learns() -> None:
    net = network()
    optimiser = ConvolutionMuon(list(net.parameters()), 1e-2, 0.0)
    first = loss(net, 99).item()
    for seed in range(60):
        step(net, optimiser, seed)
    assert loss(net, 99).item() < 0.05 * first
