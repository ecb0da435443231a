"""How a metric answers to known motions: where the optimum lies, how wide its basin is, how many minima there are."""

import numpy as np
import pytest
import torch

from regsim.evaluation.response import responses
from regsim.evaluation.surface import flanks, minima
from regsim.images.image import Image
from regsim.metrics import load_metric
from regsim.transforms import Rigid

from .test_patch_likelihood import smooth


@pytest.mark.parametrize("shape", [(60, 66), (30, 32, 34)])
def test_the_optimum_lies_where_the_images_agree(shape: tuple[int, ...]) -> None:
    fixed = Image(smooth(shape), Image.of_array(smooth(shape)[0], 2.0).grid)
    moving = fixed.with_data(fixed.data.roll(3, -1))  # 6 mm along x
    still = Rigid(len(shape), fixed.grid.centre)
    found = responses(load_metric("mse"), [(fixed, moving, still)], 2.0, reach=16.0, turn=20.0, steps=8)
    assert [each.motion for each in found] == [*[f"shift in {axis}" for axis in "xyz"[: len(shape)]], "turn"]
    assert abs(found[0].centre - 6.0) < 0.5
    assert abs(found[1].centre) < 0.8
    assert found[0].modes == 1
    again = Rigid(len(shape), fixed.grid.centre)
    with torch.no_grad():
        again.translation[0] = 6.0
    aligned = responses(load_metric("mse"), [(fixed, moving, again)] * 2, 2.0, reach=16.0, turn=20.0, steps=8)
    assert all(abs(each.centre) < 0.6 for each in aligned)
    assert 2.0 < aligned[0].width < 24.0


def test_minima_and_flanks_of_made_up_lines() -> None:
    at = np.linspace(-10, 10, 41)
    assert minima(at**2) == 1
    assert minima((at**2 - 25) ** 2) == 2
    assert abs(flanks(at, np.abs(at)) - 10.0) < 1e-6
    assert flanks(at, np.minimum(np.abs(at), 2.0)) == pytest.approx(2.0, abs=1e-6)
    assert flanks(at, np.minimum(np.abs(at - 9), 4.0)) == pytest.approx(1.0, abs=1e-6)  # the lower end is near
