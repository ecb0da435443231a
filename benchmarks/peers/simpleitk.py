"""SimpleITK's rigid registration by Mattes' mutual information, with the settings that its users choose between."""

import time
from dataclasses import dataclass, fields

import SimpleITK as sitk

from benchmarks.peers import Found, linear
from regsim.images import Image

OPTIMISERS = ("regular-step", "gradient-10", "gradient-estimated", "line-search", "conjugate", "lbfgs2")


@dataclass(frozen=True)
class Settings:
    """What its users choose between.

    `optimiser`: "gradient-10" has a fixed learning rate of 10 in units of physical shift; with an estimated one the convergence
    check stops it after ten steps. `share`: of the voxels, for random sampling. `shrink`: factors, coarse to fine, joined by
    "-"; smoothing is half of them.

    >>> Settings.parse(str(Settings(share=0.05))) == Settings(share=0.05)
    True
    """

    optimiser: str = "regular-step"
    sampling: str = "none"
    share: float = 1.0
    shrink: str = "4-2-1"
    bins: int = 32
    start: str = "geometry"

    def __str__(self) -> str:
        return "/".join(str(getattr(self, field.name)) for field in fields(self))

    @classmethod
    def parse(cls, text: str) -> "Settings":
        optimiser, sampling, share, shrink, bins, start = text.split("/")
        return cls(optimiser, sampling, float(share), shrink, int(bins), start)


def rigid(fixed: Image, moving: Image, settings: Settings) -> Found:
    """Scales from physical shift; the threads are SimpleITK's global default."""
    images = [sitk.Cast(image.to_sitk(), sitk.sitkFloat32) for image in (fixed, moving)]
    began = time.perf_counter()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(settings.bins)
    _sample(method, settings)
    factors = [int(factor) for factor in settings.shrink.split("-")]
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0 for factor in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInterpolator(sitk.sitkLinear)
    _optimise(method, settings.optimiser)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(_start(images[0], images[1], settings.start), inPlace=False)
    found = method.Execute(*images)
    return Found(linear(found), time.perf_counter() - began)


def _sample(method: sitk.ImageRegistrationMethod, settings: Settings) -> None:
    kinds = {"none": method.NONE, "random": method.RANDOM, "regular": method.REGULAR}
    method.SetMetricSamplingStrategy(kinds[settings.sampling])
    if settings.sampling != "none":
        method.SetMetricSamplingPercentage(settings.share, 1)


def _optimise(method: sitk.ImageRegistrationMethod, name: str) -> None:
    stop = {"convergenceMinimumValue": 1e-6, "convergenceWindowSize": 10}
    if name == "gradient-10":
        method.SetOptimizerAsGradientDescent(10.0, 200, estimateLearningRate=method.Never, **stop)
    elif name == "gradient-estimated":
        method.SetOptimizerAsGradientDescent(1.0, 200, estimateLearningRate=method.Once, **stop)
    elif name == "line-search":
        method.SetOptimizerAsGradientDescentLineSearch(1.0, 100, estimateLearningRate=method.Once, **stop)
    elif name == "conjugate":
        method.SetOptimizerAsConjugateGradientLineSearch(1.0, 100, estimateLearningRate=method.Once, **stop)
    elif name == "regular-step":
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200, estimateLearningRate=method.Never)
    elif name == "lbfgs2":
        method.SetOptimizerAsLBFGS2(solutionAccuracy=1e-5, numberOfIterations=100, deltaConvergenceTolerance=1e-5)
    else:
        raise KeyError(name)


def _start(fixed: sitk.Image, moving: sitk.Image, name: str) -> sitk.Transform:
    if name == "identity":
        start = sitk.Euler3DTransform()
        start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()]))
        return start
    kinds = sitk.CenteredTransformInitializerFilter
    kind = kinds.MOMENTS if name == "mass" else kinds.GEOMETRY
    return sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), kind)
