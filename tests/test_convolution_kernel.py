"""The quick gradient of a convolution with steps of 2."""

import pytest
import torch
import torch.nn.functional as F

from regsim.kernels.convolution import halving_convolution
from regsim.metrics.patch_network import PatchNetwork, PatchSettings


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("side", [11, 12])
def test_value_and_gradient_are_those_of_torch(dims: int, kernel: int, channels: int, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, channels, *[kernel] * dims, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    image = torch.randn(3, channels, *range(side, side + dims), generator=generator, dtype=torch.float64)
    one, other = (image.clone().requires_grad_() for _ in range(2))
    quick = halving_convolution(one, weight, bias)
    plain = (F.conv2d if dims == 2 else F.conv3d)(other, weight, bias, stride=2)
    torch.testing.assert_close(quick, plain)
    gradient = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    quick.backward(gradient)
    plain.backward(gradient)
    torch.testing.assert_close(one.grad, other.grad)


def test_weights_that_learn_get_their_gradients() -> None:
    weight = torch.ones(2, 1, 3, 3, requires_grad=True)
    halving_convolution(torch.rand(1, 1, 9, 9, requires_grad=True), weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.all()


@pytest.mark.parametrize(("dims", "patch"), [(2, 25), (3, 17)])
def test_a_network_says_the_same_by_halves(dims: int, patch: int) -> None:
    torch.manual_seed(0)
    network = PatchNetwork(PatchSettings(dims=dims, patch=patch)).eval().requires_grad_(False)
    fixed, moving = torch.rand(2, 3, 1, *[patch] * dims)
    torch.testing.assert_close(network.beside(network.halved(fixed), moving), network(fixed, moving))
