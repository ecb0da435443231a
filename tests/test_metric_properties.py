"""What theory says of each metric, on images drawn by hypothesis."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regsim.kernels.histogram import joint_histogram
from regsim.metrics import load_metric

EXAMPLES = settings(max_examples=15, derandomize=True, deadline=None, database=None)
SHAPES = st.sampled_from([(5, 7), (8, 6), (4, 5, 3)])
GAIN = st.floats(0.2, 20)
OFFSET = st.floats(-30, 30)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images with a few grey levels each (ties, edges, flat parts) and a little deterministic texture."""
    shape = draw(SHAPES)
    levels = arrays(np.int8, shape, elements=st.integers(0, 9))
    fixed, moving = (torch.tensor(draw(levels), dtype=torch.float64)[None, None] for _ in range(2))
    ramp = torch.arange(fixed.numel(), dtype=torch.float64).reshape(fixed.shape)
    return fixed + (ramp * 0.7548).frac(), moving + (ramp * 0.5698).frac()


def _value(spec: str, fixed: torch.Tensor, moving: torch.Tensor) -> float:
    return load_metric(spec)(fixed, moving).item()


@pytest.mark.parametrize("spec", ["ncc", "lncc:window=3", "mi", "nmi", "mind:dilation=1", "ngf"])
@EXAMPLES
@given(pair=pairs(), gain=GAIN, offset=OFFSET)
def test_brightness_and_contrast_of_either_image_do_not_matter(
    spec: str, pair: tuple[torch.Tensor, torch.Tensor], gain: float, offset: float
) -> None:
    fixed, moving = pair
    expected = pytest.approx(_value(spec, fixed, moving), abs=1e-6)
    assert _value(spec, fixed, gain * moving + offset) == expected
    assert _value(spec, gain * fixed + offset, moving) == expected


@pytest.mark.parametrize("spec", ["lncc:window=3", "mi", "nmi", "mind:dilation=1", "ngf"])
@EXAMPLES
@given(pair=pairs())
def test_inverted_contrast_does_not_matter_between_contrasts(
    spec: str, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    fixed, moving = pair
    assert _value(spec, fixed, -moving) == pytest.approx(_value(spec, fixed, moving), abs=1e-6)


@EXAMPLES
@given(pair=pairs(), gain=st.floats(1.5, 3))
def test_what_must_notice_a_change_of_contrast_does(pair: tuple[torch.Tensor, torch.Tensor], gain: float) -> None:
    fixed, moving = pair
    assert _value("ncc", fixed, -moving) == pytest.approx(-_value("ncc", fixed, moving), abs=1e-9)
    assert _value("ssim:data_range=10", fixed, gain * fixed) < 1 - 1e-3
    assert _value("mse", fixed, gain * fixed) > 0
    assert _value("mae", gain * fixed, gain * moving) == pytest.approx(gain * _value("mae", fixed, moving))
    assert _value("mse", gain * fixed, gain * moving) == pytest.approx(gain**2 * _value("mse", fixed, moving))


@pytest.mark.parametrize(
    "spec", ["mse", "mae", "ncc", "lncc:window=3", "mi", "nmi", "mind:dilation=1", "ngf", "ssim:data_range=9"]
)
@EXAMPLES
@given(pair=pairs())
def test_symmetric_and_the_same_for_mirrored_images(spec: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    fixed, moving = pair
    value = pytest.approx(_value(spec, fixed, moving), abs=1e-8)
    assert _value(spec, moving, fixed) == value
    assert _value(spec, fixed.flip(-1), moving.flip(-1)) == value
    assert _value(spec, fixed.mT, moving.mT) == value


@pytest.mark.parametrize("spec", ["mse", "mae", "ncc", "lncc:window=3", "ssim", "mi", "nmi", "mind:dilation=1", "ngf"])
@EXAMPLES
@given(pair=pairs())
def test_bounds(spec: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    low, high = load_metric(spec).value_range
    assert low - 1e-9 <= _value(spec, *pair) <= high + 1e-9


@pytest.mark.parametrize(
    ("spec", "best"), [("mse", 0), ("mae", 0), ("ncc", 1), ("lncc:window=3", 1), ("ssim", 1), ("mind", 0)]
)
@EXAMPLES
@given(pair=pairs())
def test_identical_images_reach_the_best_value(spec: str, best: float, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert _value(spec, pair[0], pair[0]) == pytest.approx(best, abs=1e-9)


@EXAMPLES
@given(pair=pairs(), bins=st.integers(6, 40))
def test_information_is_at_most_either_entropy(pair: tuple[torch.Tensor, torch.Tensor], bins: int) -> None:
    fixed, moving = pair
    information = _value(f"mi:bins={bins}", fixed, moving)
    assert information <= min(_entropy(fixed, bins), _entropy(moving, bins), math.log(bins)) + 1e-9
    assert _value(f"nmi:bins={bins}", fixed, fixed) < 2


def _entropy(image: torch.Tensor, bins: int) -> float:
    flat = image.flatten(1)
    position = 1 + (flat - flat.min()) / (flat.max() - flat.min()) * (bins - 3)
    p = joint_histogram(position, position, torch.ones_like(flat), bins).sum(dim=2) / flat.numel()
    return -float(torch.special.xlogy(p, p).sum())


@EXAMPLES
@given(levels=arrays(np.int8, (6, 7), elements=st.integers(0, 4)))
def test_information_of_separate_levels_with_themselves_is_their_entropy(levels: np.ndarray) -> None:
    """Five levels on 27 bins are six bins apart, so no two windows meet: MI(a, a) = H(a), whatever the relabelling."""
    levels[0, :2] = (0, 4)
    image = torch.tensor(levels, dtype=torch.float64)[None, None]
    share = np.bincount(levels.ravel()) / levels.size
    entropy = -sum(p * math.log(p) for p in share if p > 0)
    relabelled = torch.tensor([3.0, 0.0, 4.0, 1.0, 2.0], dtype=torch.float64)[image.long()]
    assert _value("mi:bins=27", image, image) == pytest.approx(entropy, abs=1e-9)
    if set(levels.ravel()) == {0, 1, 2, 3, 4}:
        assert _value("mi:bins=27", image, relabelled) == pytest.approx(entropy, abs=1e-9)
    window = -sum(p * math.log(p) for p in (1 / 6, 4 / 6, 1 / 6))
    expected = 2 * (entropy + window) / (entropy + 2 * window)
    assert _value("nmi:bins=27", image, image) == pytest.approx(expected, abs=1e-9)


@EXAMPLES
@given(pair=pairs())
def test_map_of_information_is_not_bound_to_one_sign_but_its_mean_is(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    local = load_metric("mi").map(*pair)
    assert local.mean().item() == pytest.approx(-_value("mi", *pair), abs=1e-9)
    assert local.mean() <= 1e-12
