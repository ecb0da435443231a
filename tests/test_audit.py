"""The audit finds what gives the answer away, and passes what does not."""

import pytest
import torch

from regsim.errors import InputError
from regsim.misalign.audit import Audit, audit, complaint
from regsim.misalign.motion import CommonSettings, MotionSettings
from regsim.misalign.pairs import PairBatch, PairMaker, PairSettings
from regsim.misalign.sources import SourceSettings, bundled_subject, shape_subjects
from regsim.misalign.window import WindowSettings

OPEN = WindowSettings(disc=0, box=0)
MOTION = MotionSettings(error=(1.0, 8.0), common=CommonSettings(translation=4))


@pytest.fixture(scope="module")
def maker() -> PairMaker:
    """Planes of the bundled brain, T1, 2 mm."""
    brain = bundled_subject(SourceSettings(spacing=2.0, contrasts=("t1",)))
    return PairMaker([brain], PairSettings(size=64, pairing=("neighbours",), apart=(0, 4), motion=MOTION, spacing=1.0))


def found(report: Audit, name: str) -> float:
    return next(probe.value for probe in report.probes if probe.name == name)


def test_the_fixed_maker_passes(maker: PairMaker) -> None:
    report = audit(maker, 320)
    assert report.passed, complaint(report)
    assert found(report, "blur") < 0.1
    assert found(report, "one image") < 0.62


def test_the_papers_maker_is_caught(maker: PairMaker) -> None:
    """Only misaligned images are resampled: sharpness alone answers, and blurred aligned pairs are called misaligned."""
    report = audit(
        maker.with_settings(maker.settings.model_copy(update={"resample": "misaligned", "window": OPEN})), 480
    )
    assert not report.passed
    assert found(report, "blur") >= 0.8
    assert found(report, "one image") > 0.8
    assert "shortcut" in complaint(report)


def test_zero_filling_is_caught_at_the_borders() -> None:
    settings = PairSettings(size=48, resample="misaligned", motion=MOTION, window=OPEN)
    report = audit(PairMaker(shape_subjects(12, 80, 2, seed=0), settings), 240)
    assert not report.passed
    assert found(report, "border") > 0.75


class OneSided(PairMaker):
    """A maker that brightens the moving image of misaligned pairs."""

    def __call__(self, count: int, generator: torch.Generator) -> PairBatch:
        pairs = super().__call__(count, generator)
        pairs.moving[pairs.misaligned] *= 0.5
        return pairs

    def with_settings(self, settings: PairSettings) -> "OneSided":
        return OneSided(self.subjects, settings)


def test_any_other_leak_is_caught(maker: PairMaker) -> None:
    report = audit(OneSided(maker.subjects, maker.settings), 240)
    assert not report.passed
    assert found(report, "one image") > 0.7


def test_few_pairs_tell_nothing(maker: PairMaker) -> None:
    with pytest.raises(InputError, match="at least 100"):
        audit(maker, 20)
