"""Metrics: tensors in, one number per pair out. ONE IMPORT LINE PER METRIC; importing a metric registers it."""

from regsim.metrics.base import REGISTRY as REGISTRY
from regsim.metrics.base import AbstractMetric as AbstractMetric
from regsim.metrics.base import BoundMetric as BoundMetric
from regsim.metrics.deepsim import DeepSimilarity as DeepSimilarity
from regsim.metrics.gradient_fields import NormalisedGradientFields as NormalisedGradientFields
from regsim.metrics.imse import IndescribableSpatialEvaluator as IndescribableSpatialEvaluator
from regsim.metrics.lncc import LocalNormalisedCrossCorrelation as LocalNormalisedCrossCorrelation
from regsim.metrics.mae import MeanAbsoluteError as MeanAbsoluteError
from regsim.metrics.mind import ModalityIndependentNeighbourhoodDescriptor as ModalityIndependentNeighbourhoodDescriptor
from regsim.metrics.mse import MeanSquaredError as MeanSquaredError
from regsim.metrics.mutual_information import MutualInformation as MutualInformation
from regsim.metrics.mutual_information import NormalisedMutualInformation as NormalisedMutualInformation
from regsim.metrics.names import load_metric as load_metric
from regsim.metrics.names import metric_names as metric_names
from regsim.metrics.names import usable_metrics as usable_metrics
from regsim.metrics.ncc import NormalisedCrossCorrelation as NormalisedCrossCorrelation
from regsim.metrics.nccsup import SupervisedCorrelation as SupervisedCorrelation
from regsim.metrics.patch_likelihood import PatchLikelihood as PatchLikelihood
from regsim.metrics.perceptual import PerceptualSimilarity as PerceptualSimilarity
from regsim.metrics.registration_error import RegistrationError as RegistrationError
from regsim.metrics.siamregqc import SiameseRegistrationQuality as SiameseRegistrationQuality
from regsim.metrics.ssim import StructuralSimilarity as StructuralSimilarity
from regsim.metrics.translation import TranslatedMeanAbsoluteError as TranslatedMeanAbsoluteError
from regsim.metrics.two_channel import TwoChannelMisalignment as TwoChannelMisalignment
